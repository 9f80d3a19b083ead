"""What every room may use: errors, whole files, flags, progress, signals, versions. No jax here."""
