// The shadow of a block's shared memory: for each byte who wrote it last and who has read it since,
// so that two accesses without a barrier between them are found whatever the order they ran in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "machine.h"

namespace cuda_host {

class Shadow {
 public:
  void begin_block();
  // Empty, or what is wrong with this access by the thread that runs.
  std::string access(std::size_t offset, int bytes, bool write);
  void start_copy(std::size_t offset, int bytes);

 private:
  // A thread's access happens before those of other threads that passed a barrier since, and those
  // of its warp that passed a __syncwarp() since. Epochs count these; epoch 0 is never.
  struct Byte {
    std::int16_t writer = -1, reading_warp = -1;
    bool in_flight = false, many_warps = false;
    std::uint32_t write_epoch = 0, write_warp_epoch = 0;
    std::uint32_t read_epoch = 0, read_warp_epoch = 0, reading_lanes = 0;
  };

  std::string race(const Byte &byte, bool write) const;
  void record(Byte &byte, bool write) const;

  std::vector<Byte> bytes_;
};

}  // namespace cuda_host
