"""Tables 1 and 3 of the paper (Roth, Koch et al. 2023, arXiv 2401.04720): MSI from slides, TCGA-CRC to CPTAC.

    python -m histojax.benchmark --config configs/benchmark_msi.py --dry-run
    python -m histojax.benchmark --config configs/benchmark_msi.py \\
        --config.cohort.slides=tcga/slides --config.cohort.clini=tcga/clini.csv --config.cohort.table=tcga/slides.csv \\
        --config.external.slides=cptac/slides --config.external.clini=cptac/clini.csv \\
        --config.external.table=cptac/slides.csv

Needs: diagnostic slides of TCGA-COAD and TCGA-READ (632 patients with an MSI label in the paper) and of CPTAC's colon
cohort (110), for each a clinical table (PATIENT, isMSIH) and a slide table (FILENAME, PATIENT), and the weights of the
paper's encoders (the dry run says what is here). What is missing leaves a named hole.
Time: not measured; every slide is read once an encoder, at 10x in tiles of 256 px, and the features are kept.
"""

from histojax.config import benchmark


def get_config():
    c = benchmark()
    c.name = "benchmark_msi"
    c.protocol = "slide"
    c.target = "isMSIH"
    return c
