"""Appliers: the modules that change optimizers, data and models as a plan says."""
