"""Feature files: ours and those of TRIDENT, CLAM, STAMP and HistoBistro read alike; extraction that writes ours."""
