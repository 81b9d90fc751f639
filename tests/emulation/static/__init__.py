"""What the machine code says without running: registers, spills, occupancy, instructions."""
