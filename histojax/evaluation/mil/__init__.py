"""Multiple-instance learning: models of bags of features, their training, and the files they are kept in."""
