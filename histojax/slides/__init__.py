"""Whole slides: reading them at a resolution, finding tissue, choosing tiles, stain. numpy and OpenSlide, no jax."""
