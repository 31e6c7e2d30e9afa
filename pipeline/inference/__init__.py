"""Running the network on pixels: tiling (pure), memory budgets, precision, and the engine that ties them together."""
