"""HDR scenes seen through a simulated camera: what training learns from and evaluation measures on. No torch."""
