"""Image ↔ features; features ↔ a pyramid of codes + a continuous residual."""
