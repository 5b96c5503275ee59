"""From one reconstruction to its scores: alignment and metrics put together, arrays in and plain records out."""
