"""Tables 2 and 3 and Figure 2 of the paper (Roth, Koch et al. 2023, arXiv 2401.04720): tiles of NCT-CRC-HE.

    python -m histojax.benchmark --config configs/benchmark_nct.py --dry-run
    python -m histojax.benchmark --config configs/benchmark_nct.py \\
        --config.train=NCT-CRC-HE-100K --config.test=CRC-VAL-HE-7K --config.run=runs/nct_vits14

Needs: the two folders (or zips) of Zenodo record 1214456, the weights of the paper's encoders (the dry run says which
are here, which are downloaded and which a person has to get), and, for Figure 2, the workdir of a training with
export.steps. What is missing leaves a named hole. Any other pair of labelled folders can be named, too; its numbers are
then not compared with the paper's.
Time: 107,180 tiles an encoder; the features are computed once.
"""

from histojax.config import benchmark


def get_config():
    c = benchmark()
    c.name = "benchmark_nct"
    c.protocol = "patch"
    return c
