"""The tables and the figure of Roth, Koch et al. 2023 (arXiv 2401.04720), computed anew and held against theirs."""
