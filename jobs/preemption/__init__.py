"""The agent of a node: a cloud's notice that it takes the machine back becomes a drain of the Ray node there."""
