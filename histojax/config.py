"""The configurations of training and benchmark: every leaf with its meaning and the paper's value.

`paper()` is the setting of Roth, Koch et al. 2023 (arXiv 2401.04720) as their code ran it; `dinov2()` is the
recipe of Oquab et al. 2023 as in the released `vitl16_short` configuration; `pathology()` is the paper's with what
open encoders of tissue have changed since; `finetune()` is for a few hundred steps on a lab's own tiles. A file in
`configs/` starts from one of them and changes what differs; histojax.training.check refuses impossible values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def paper() -> ConfigDict:
    """The paper's ViT-S/14 run on NCT-CRC-HE-100K, with every other leaf at its default."""
    c = ConfigDict()
    c.name = "paper"  # of the run, in its cards
    c.seed = 0  # of parameters, crops, masks and the order of the tiles
    c.epochs = 100  # an "epoch" is a unit of the schedules, not a pass over the data
    c.epoch_steps = 100  # steps of an epoch
    c.stop_step = placeholder(int)  # stop early with the schedules unchanged; the paper's NCT ViT-S stops at 2000
    c.batch_size = 256  # images a step, over all devices
    c.accumulate = 1  # parts of the batch that go through the networks one after the other: less memory, same result
    c.compute_dtype = "auto"  # float32 on CPU, bfloat16 on GPU and TPU; or name one
    c.model = _model()
    c.crops = _crops()
    c.masks = _masks()
    c.head = _head()
    c.ibot_head = _ibot_head()
    c.loss = _loss()
    c.teacher = _teacher()
    c.optim = _optim()
    c.data = _data()
    c.eval = _eval()
    c.monitor = _monitor()
    c.checkpoint = _checkpoint()
    c.export = _export()
    c.log = _log()
    c.mesh = _mesh()
    return c


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            size="vit_small",  # vit_micro, vit_mini, vit_tiny, vit_small, vit_base, vit_large, vit_giant2
            patch=14,  # side of a patch in pixels
            registers=0,  # register tokens
            ffn="auto",  # auto: what the size uses; mlp; swiglu
            weights="",  # a published name, a local file, or "" for a random start
            weights_key="auto",  # in a file with several networks: teacher, student or a prefix; auto: the teacher
            continue_from="",  # go on with a training: its files (teacher, student, heads; commas), or their folder
            position_load="paper",  # resampling of the stored grid at load: paper, offset or antialias
            grid_px=0,  # input side whose position grid is trained, as eval.image_px; 0: that of the global crops
            interpolation="auto",  # of it for crops of other sizes: offset without registers, antialias with them
            layerscale=1.0,  # initial value of a random start; a weights file brings its own
            drop_path=0.0,  # stochastic depth; the paper's configuration says 0.4, its code used 0
            drop_path_uniform=True,  # the same rate in all blocks; False: growing from 0 with depth
            attention="auto",  # auto, einsum, xla, cudnn (needs a GPU)
            remat="dots",  # the backward pass recomputes: none, dots (all but big products), block (all: least memory)
            train="all",  # of the backbone: all, last:K (K blocks, final norm), norms (and biases), lora:R[@last:K]
        )
    )


def _crops() -> ConfigDict:
    return ConfigDict(
        dict(
            global_px=224,  # side of the two global crops
            local_px=98,  # side of the local crops
            local_crops=8,  # number of local crops an image
            global_scale=(0.32, 1.0),  # share of the tile's area that a global crop takes
            local_scale=(0.05, 0.32),  # the same of a local crop
            aspect=4 / 3,  # a crop's longer side is at most so many times its shorter one
            hflip=0.5,  # probability of a horizontal flip
            vflip=0.5,  # probability of a vertical flip
            transpose=0.0,  # probability of swapping rows and columns; 0.5 with both flips: all eight positions
            hed_p=(0.0, 0.0, 0.0),  # of jitter of the stains: global 1, global 2, local
            hed_scale=0.2,  # factor on haematoxylin, eosin and DAB, each drawn from 1 - x to 1 + x
            hed_shift=0.01,  # added to each, drawn from -x to x (1 absorbs all light); 0.05 gives green slides
            jitter_p=0.8,  # probability of the four jitters, in random order
            brightness=0.4,  # factor drawn from 1 - x to 1 + x
            contrast=0.4,  # factor drawn from 1 - x to 1 + x
            saturation=0.2,  # factor drawn from 1 - x to 1 + x
            hue=0.1,  # shift drawn from -x to x, of a full turn
            grayscale_p=0.2,  # probability of turning grey
            blur_p=(0.0, 0.9, 0.5),  # global 1, global 2, local: as released; the intended (1.0, 0.1, 0.5)
            solarize_p=0.2,  # probability of solarizing the second global crop
        )
    )


def _masks() -> ConfigDict:
    return ConfigDict(
        dict(
            probability=0.5,  # share of global crops that are masked for iBOT
            ratio=(0.1, 0.5),  # share of patches hidden in a masked crop
        )
    )


def _head() -> ConfigDict:
    return ConfigDict(
        dict(
            prototypes=65536,  # outputs of the DINO head
            bottleneck=256,  # width in front of the prototypes
            hidden=2048,  # width of the hidden layers
            layers=3,  # linear layers, the prototypes apart
        )
    )


def _ibot_head() -> ConfigDict:
    return ConfigDict(
        dict(
            separate=False,  # a head of its own for iBOT; False: DINO's, and the other leaves here mean nothing
            prototypes=65536,  # outputs of the iBOT head
            bottleneck=256,  # width in front of the prototypes
            hidden=2048,  # width of the hidden layers
            layers=3,  # linear layers, the prototypes apart
        )
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        dict(
            centering="sinkhorn",  # of the teacher's scores: sinkhorn or softmax
            dino_weight=1.0,  # of the loss between crops
            ibot_weight=1.0,  # of the loss on masked patches
            koleo_weight=0.1,  # of the spread of the features; 0: none
            koleo_eps=1e-4,  # added to every component of the difference; the original 1e-8 is unsafe
            kde_weight=0.0,  # of the density of the features on the unit sphere, in place of KoLeo; 0: none
            kde_kappa=5.0,  # concentration of its von Mises-Fisher kernel
            student_temp=0.1,  # temperature of the student's softmax
            token_chunk=256,  # masked tokens scored against the prototypes at a time
            targets="auto",  # of masked patches: kept, formed (again for the losses), parts (least memory); by size
        )
    )


def _teacher() -> ConfigDict:
    return ConfigDict(
        dict(
            momentum=0.994,  # of the moving average, at the first step
            momentum_end=1.0,  # at the last step (cosine)
            temp=0.07,  # temperature of the teacher's softmax
            temp_start=0.04,  # at the first step (linear warm-up)
            temp_warmup_epochs=30,  # epochs until `temp`
        )
    )


def _optim() -> ConfigDict:
    return ConfigDict(
        dict(
            base_lr=2e-4,  # AdamW's peak at batch 1024; scaled by sqrt(batch / 1024)
            min_lr=1e-6,  # at the last step (cosine)
            warmup_epochs=10,  # epochs of linear warm-up from 0
            weight_decay=0.04,  # at the first step
            weight_decay_end=0.2,  # at the last step (cosine)
            layer_decay=0.9,  # factor on the learning rate for each block further from the output
            patch_embed_lr=0.2,  # factor on the learning rate of the patch embedding
            clip_norm=3.0,  # per submodule: backbone, each head; 0: no limit
            freeze_last_layer_epochs=1,  # epochs in which the prototypes do not move
            freeze_backbone_steps=0,  # steps in which only the heads move, to warm them up
            beta1=0.9,  # AdamW
            beta2=0.999,  # AdamW
        )
    )


def _data() -> ConfigDict:
    return ConfigDict(
        dict(
            train="",  # folder, CSV, zip, tile store, tfds:NAME:SPLIT, synthetic[:N]; commas join several
            tile_px=224,  # decode size: shorter side resized to it, then centre crop
            workers=0,  # decoding processes; 0 decodes in threads of the main one
            max_bad_share=0.05,  # unreadable tiles tolerated before the run stops
        )
    )


def _eval() -> ConfigDict:
    return ConfigDict(
        dict(
            every=1000,  # steps between evaluations of the teacher; also before the first and after the last step
            data="",  # labelled tiles; "" uses the training tiles when they are labelled
            test="",  # a separate labelled set, only reported, never chosen on; "" splits it off `data`
            slides="",  # tiles with patients, labelled as their patient: AUROC of mean-pooled features; "": none
            test_share=0.5,  # of `data` (by patient, else by class), if there is no other test set
            validation_share=0.3,  # of the tiles to fit on: they choose the best checkpoint; 0: none
            split_seed=0,  # of the splits
            max_tiles=4000,  # used at most, the same ones each time
            image_px=224,  # input side for the features
            batch_size=64,  # images at a time
            k=20,  # neighbours of the kNN
        )
    )


def _monitor() -> ConfigDict:
    return ConfigDict(
        dict(
            action="stop",  # at NaN, divergence or collapse: stop, or continue (the verdict is logged either way)
            grace_steps=200,  # steps before collapse and divergence are judged
        )
    )


def _checkpoint() -> ConfigDict:
    return ConfigDict(
        dict(
            every=500,  # steps between checkpoints
            keep=2,  # newest ones kept
            best="auto",  # also kept: the best by knn (labels) or rankme (none), auto: as the tiles allow; last: none
        )
    )


def _export() -> ConfigDict:
    return ConfigDict(
        dict(
            layouts=("meta", "timm"),  # names of the tensors: meta, timm, hf
            steps=(),  # also at these steps, 0 being the start, not only at the end
        )
    )


def _log() -> ConfigDict:
    return ConfigDict(
        dict(
            every=10,  # steps between lines of metrics.jsonl
            tensorboard=True,  # write TensorBoard files too
        )
    )


def _mesh() -> ConfigDict:
    return ConfigDict(
        dict(
            fsdp=False,  # split parameters, optimiser and moving average over the devices
            fsdp_devices=0,  # so many devices share one copy of them, others have further copies; 0: all share one
            batch_shards=0,  # parts of the batch with masks, KoLeo and iBOT centre of their own; 0: one a device
        )
    )


def dinov2() -> ConfigDict:
    """DINOv2 as its short ViT-L/16 configuration trains it from random weights, with the blur as intended.

    KoLeo keeps the paper's epsilon: with the original 1e-8 two equal tiles give a gradient 10,000 times larger,
    which then owns every clipped step (loss.koleo_eps=1e-8 has it back).
    """
    c = paper()
    c.name = "dinov2"
    c.epoch_steps = 1250
    c.batch_size = 2048
    c.model.update(dict(size="vit_large", patch=16, drop_path=0.3, drop_path_uniform=True, layerscale=1e-5))
    c.crops.update(dict(local_px=96, vflip=0.0, blur_p=(1.0, 0.1, 0.5)))
    c.loss.centering = "softmax"
    c.teacher.update(dict(momentum=0.992))
    c.optim.update(dict(base_lr=4e-3, weight_decay_end=0.4))
    c.eval.every = 12500
    return c


def pathology() -> ConfigDict:
    """The paper's setting with what open encoders of tissue changed since, each leaf to be put back on its own.

    KDE for KoLeo: Virchow2 (Zimmermann et al. 2024), Midnight (Karasikov et al. 2025, arXiv 2504.05186), OpenMidnight
    (weight 0.05) and, with 0.002 to 0.005, MedARC's nanopath, which continues a DINOv2 ViT-S. Jitter of the stains on
    every crop: Midnight, which does not say how much, and nanopath; OpenMidnight on local crops alone, Virchow2 none.
    nanopath's and OpenMidnight's shifts of 0.05, in these units, turn many crops green or violet; to the eye the ranges
    here are those of laboratories. Quarter turns beside both flips: Hibou (Nechaev et al. 2024), RudolfV (Dippel et al.
    2024, recalled); Virchow2 flips both ways. No solarizing: Virchow2G, OpenMidnight. Weaker colours, no hue, less
    grey: nanopath, where hue, or a jitter of 0.4, cost 0.003 of the mean score and vertical flips brought 0.006;
    Virchow2 and OpenMidnight kept DINOv2's.

    Read in MedARC-AI/OpenMidnight (dinov2/data/augmentations.py, configs/train/vitg14_reg4.yaml, issues 7 and 11),
    MedARC-AI/nanopath (dataloader.py, configs/leader.yaml at df78e8f, LOG.md of 2026-04-30) and, for Virchow2 and
    Midnight, RamonKaspar/wsistream (docs/recipes).
    """
    c = paper()
    c.name = "pathology"
    c.crops.update(dict(transpose=0.5, hed_p=(1.0, 1.0, 1.0), solarize_p=0.0))
    c.crops.update(dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0, grayscale_p=0.1))
    c.loss.update(dict(koleo_weight=0.0, kde_weight=0.05))
    return c


def finetune() -> ConfigDict:
    """A few hundred steps from DINOv2's ViT-S/14 on a lab's own tiles, chosen by measurement.

    What was tried beside it is told in configs/finetune_cpu.py. Crops are small and cover so much of a tile of 224 px
    that its magnification stays near that of the read-out. Heads learn little in so few steps: of 8,192 prototypes the
    teacher's targets stayed near uniform (entropy 8.8 of at most 9.01 after 200 steps, `teacher_entropy` of
    metrics.jsonl), and 0.994 ** 100 of the paper's average would still be the start. So prototypes are fewer, their
    space narrower, the teacher colder and quicker. Crops of one tile share its stain and colours, whatever its tissue:
    both are jittered.
    """
    c = paper()
    c.name = "finetune"
    c.model.update(dict(weights="dinov2_vits14", grid_px=224, position_load="offset"))
    c.crops.update(dict(global_px=112, local_px=56, local_crops=4, global_scale=(0.12, 0.5), local_scale=(0.02, 0.12)))
    c.crops.update(dict(transpose=0.5, hed_p=(1.0, 1.0, 1.0), solarize_p=0.0))
    c.crops.update(dict(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.0))
    c.head.update(dict(prototypes=2048, bottleneck=64))
    c.teacher.update(dict(momentum=0.9, momentum_end=0.99, temp=0.04, temp_start=0.04))
    c.epochs, c.epoch_steps = 10, 20
    c.optim.update(dict(base_lr=6e-4, warmup_epochs=1))
    return c


def benchmark() -> ConfigDict:
    """The paper's Table 2 with all its encoders, from data in the current folder: histojax benchmark."""
    c = ConfigDict()
    c.name = "benchmark"  # heads its report
    c.protocol = "patch"  # patch: Tables 2 and 3 and Figure 2, of labelled tiles; slide: Tables 1 and 3, of cohorts
    c.rows = "all"  # of the paper's tables: all, none, or their names with commas between
    c.encoders = ()  # further rows: published names, paths of trainings or weights, LABEL=NAME or LABEL=PATH
    c.weights = ()  # ROW=FILE for a row's published network, ROW=random, ROW=FOLDER of a training
    c.train = "NCT-CRC-HE-100K"  # patch: labelled tiles to fit on: a folder of class folders, a zip, a table, a store
    c.test = "CRC-VAL-HE-7K"  # patch: labelled tiles that are only reported
    c.run = ""  # patch: the workdir of a training; its exports and checkpoints are the points of Figure 2
    c.run_row = "DINOv2 ViT-S finetuned"  # patch: the paper's row that this training is compared with; "" for none
    c.target = "isMSIH"  # slide: column of the clinical tables
    c.classes = ()  # slide: classes of the target in their order, the last of two being the positive one; (): found
    c.choice = "first"  # slide: first slide of a patient by name (as the paper), all of them as one bag, or each
    c.epochs = 8  # slide: of the heads
    c.cohort = _cohort()
    c.external = _external()
    c.seed = 0  # of intervals, folds and heads
    c.draws = 1000  # of the bootstrap
    c.dtype = "float32"  # of the matrix products of the encoders: float32 or bfloat16
    c.batch_size = placeholder(int)  # tiles of a batch; unset: by device and encoder
    c.workers = placeholder(int)  # processes that read tiles; unset: one a core
    c.offline = False  # never download weights
    c.allow_leaks = False  # report a test that shares patients, slides or tiles with training all the same
    c.verify = False  # also compute the md5 of archives
    return c


def _cohort() -> ConfigDict:
    return ConfigDict(
        dict(
            slides="",  # slide: folder of the slides that are split into folds
            features="",  # slide: instead, a folder with features_ENCODER in it, of histojax extract
            clini="",  # slide: their clinical table (PATIENT and the target; csv or xlsx)
            table="",  # slide: the table that says whose slides they are (FILENAME, PATIENT)
            mpp=0.0,  # slide: micrometres per pixel of level 0, for slides that do not tell; 0: they do
        )
    )


def _external() -> ConfigDict:
    return ConfigDict(
        dict(
            slides="",  # slide: the same of the external cohort, which is only reported
            features="",  # slide: or its features
            clini="",  # slide: its clinical table
            table="",  # slide: its slide table
            mpp=0.0,  # slide: as of the cohort
        )
    )


def total_steps(config: ConfigDict) -> int:
    """Steps of the schedules; a run may stop before, at `stop_step`."""
    return config.epochs * config.epoch_steps


def last_step(config: ConfigDict) -> int:
    """Steps that the run does."""
    return min(config.stop_step or total_steps(config), total_steps(config))


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf, sorted."""
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
