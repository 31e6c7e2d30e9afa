"""Executors: how shards reach workers. Ray is imported only by the modules named ray_*."""
