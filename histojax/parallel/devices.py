"""Accelerators that one can rent, by their public numbers: what they hold, how fast they are, how XLA is told of them.

Memory is what a program can have of it (a driver keeps some), speeds are the makers' peaks without sparsity.
"""

from __future__ import annotations

import dataclasses
import math
import re

from histojax.common.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the compiler asks about a GPU; whatever its architecture fixes is in ARCHITECTURES."""

    capability: tuple[int, int]  # compute capability
    cores: int  # streaming multiprocessors
    ghz: float  # boost clock
    l2_mib: int
    text: str  # as the driver describes the card


@dataclasses.dataclass(frozen=True)
class Device:
    """One kind of accelerator, as jax counts them: a GPU, or a TPU chip (a core of it for v2 and v3)."""

    name: str
    platform: str  # "gpu" or "tpu"
    memory: int  # bytes
    bandwidth: float  # bytes a second
    bfloat16: float  # peak FLOP a second
    float32: float  # of a GPU without tensor cores; of a TPU a sixth of bfloat16, whose passes make it up
    kinds: tuple[str, ...]  # what jax calls it: device_kind
    aliases: tuple[str, ...] = ()
    chip: Chip | None = None  # of a GPU
    dimensions: int = 0  # of a TPU's torus
    named_by_cores: bool = False  # v5p-8 is a slice of eight cores: four chips, two cores each
    devices_a_chip: int = 1  # 2: jax sees each core
    cores: str = "default"  # how libtpu takes a chip's cores: "megacore" makes them one device

    def peak(self, dtype: str) -> float:
        """FLOP a second with operands of that dtype ("bfloat16" or "float32")."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Limits that all GPUs of one compute capability have."""

    threads: int  # of a multiprocessor
    shared: int  # bytes of shared memory of a multiprocessor
    shared_optin: int  # of it for one block, if it asks
    units: int  # float32 units of a multiprocessor


ARCHITECTURES = {
    (8, 0): Architecture(2048, 167936, 166912, 64),
    (8, 6): Architecture(1536, 102400, 101376, 128),
    (8, 9): Architecture(1536, 102400, 101376, 128),
    (9, 0): Architecture(2048, 233472, 232448, 128),
    (10, 0): Architecture(2048, 233472, 232448, 128),
}


def _gpu(
    name: str, memory_gib: float, gb: float, tera: float, tera32: float, chip: Chip, *aliases: str, kinds: str = ""
) -> Device:
    names = tuple(kinds.split("|")) if kinds else (chip.text,)
    return Device(name, "gpu", int(memory_gib * GIB), gb * 1e9, tera * 1e12, tera32 * 1e12, names, aliases, chip)


def _tpu(name: str, memory_gib: float, gb: float, tera: float, kinds: str, dimensions: int) -> Device:
    memory, speed = int(memory_gib * GIB), tera * 1e12
    return Device(name, "tpu", memory, gb * 1e9, speed, speed / 6, tuple(kinds.split("|")), dimensions=dimensions)


# name, usable GiB, GB/s, TFLOP/s in bfloat16 and float32: data sheets; cores, clock, L2: architecture papers
DEVICES: tuple[Device, ...] = (
    _gpu(
        "a100-80gb",
        79.3,
        2039,
        312,
        19.5,
        Chip((8, 0), 108, 1.41, 40, "NVIDIA A100-SXM4-80GB"),
        "a100",
        kinds="NVIDIA A100-SXM4-80GB|NVIDIA A100 80GB PCIe|NVIDIA A100-SXM-80GB",
    ),
    _gpu(
        "a100-40gb",
        39.4,
        1555,
        312,
        19.5,
        Chip((8, 0), 108, 1.41, 40, "NVIDIA A100-SXM4-40GB"),
        kinds="NVIDIA A100-SXM4-40GB|NVIDIA A100-PCIE-40GB",
    ),
    _gpu(
        "h100",
        79.1,
        3352,
        989,
        67,
        Chip((9, 0), 132, 1.98, 50, "NVIDIA H100 80GB HBM3"),
        "h100-80gb",
    ),
    _gpu("h200", 139.8, 4800, 989, 67, Chip((9, 0), 132, 1.98, 60, "NVIDIA H200"), "h200-141gb"),
    _gpu("b200", 178.4, 7700, 2250, 75, Chip((10, 0), 148, 1.97, 126, "NVIDIA B200"), "b200-180gb"),
    _gpu("l4", 22.0, 300, 121, 30.3, Chip((8, 9), 58, 2.04, 48, "NVIDIA L4"), "l4-24gb"),
    _gpu("l40s", 44.4, 864, 362, 91.6, Chip((8, 9), 142, 2.52, 96, "NVIDIA L40S"), "l40s-48gb"),
    _gpu("a10", 22.0, 600, 125, 31.2, Chip((8, 6), 72, 1.695, 6, "NVIDIA A10"), "a10-24gb"),
    _gpu("a10g", 22.0, 600, 70, 31.5, Chip((8, 6), 80, 1.71, 6, "NVIDIA A10G"), "a10g-24gb"),
    _gpu("a6000", 47.4, 768, 155, 38.7, Chip((8, 6), 84, 1.8, 6, "NVIDIA RTX A6000"), "rtx-a6000"),
    _gpu("rtx3090", 23.6, 936, 71, 35.6, Chip((8, 6), 82, 1.695, 6, "NVIDIA GeForce RTX 3090"), "3090"),
    _gpu("rtx4090", 23.5, 1008, 165, 82.6, Chip((8, 9), 128, 2.52, 72, "NVIDIA GeForce RTX 4090"), "4090"),
    dataclasses.replace(_tpu("v3", 16, 450, 61.5, "TPU v3", 2), named_by_cores=True, devices_a_chip=2),
    dataclasses.replace(_tpu("v4", 32, 1228, 275, "TPU v4", 3), named_by_cores=True, cores="megacore"),
    dataclasses.replace(_tpu("v5e", 16, 819, 197, "TPU v5 lite|TPU v5e", 2), aliases=("v5litepod",)),
    dataclasses.replace(_tpu("v5p", 95, 2765, 459, "TPU v5|TPU v5p", 3), named_by_cores=True),
    _tpu("v6e", 32, 1640, 918, "TPU v6 lite|TPU v6e", 2),
)


def find(name: str) -> Device:
    """The device of that name or alias; raises UserError that names all of them."""
    asked = name.lower().removeprefix("nvidia-").removeprefix("tpu-")
    for device in DEVICES:
        if asked == device.name or asked in device.aliases:
            return device
    raise UserError(f"--device={name}: no such device; known are {', '.join(names())}")


def names() -> list[str]:
    """How devices may be asked for, a TPU with the number its maker counts."""
    return [d.name if d.platform == "gpu" else f"{d.name}-8" for d in DEVICES]


def of_kind(kind: str) -> Device | None:
    """The device that jax calls so (`jax.Device.device_kind`), None for one that is not in the table."""
    return next((d for d in DEVICES if kind in d.kinds), None)


def parse(text: str) -> tuple[Device, int]:
    """(device, how many jax counts): of "a100-80gb", "8xa100-80gb" or a TPU slice as it is rented, "v5e-8", "v5p-8".

    Raises UserError for a name that is not known and for a number that no slice has.
    """
    said = re.fullmatch(r"\s*(?:(\d+)x)?(.*?)\s*", text)
    assert said
    count, name = int(said[1] or 1), said[2]
    slice_ = re.fullmatch(r"(?:tpu-)?(v\d+[a-z]*)-(\d+)", name.lower())
    if count < 1 or (slice_ and said[1]):
        raise UserError(f"--device={text}: expected a number of GPUs, as 8xa100-80gb, or one TPU slice, as v5e-8")
    if not slice_:
        device = find(name)
        count *= device.devices_a_chip
        topology(device, count)
        return device, count
    device, size = find(slice_[1]), int(slice_[2])
    chips = size // 2 if device.named_by_cores else size
    if device.platform != "tpu" or chips < 1 or (device.named_by_cores and size % 2):
        raise UserError(f"--device={text}: {device.name} has no slice of {size}")
    topology(device, chips * device.devices_a_chip)
    return device, chips * device.devices_a_chip


def topology(device: Device, count: int) -> str:
    """The shape of `count` of those devices as their compiler names it: "v5e:2x4", or "1x8x1" for GPUs of one host.

    Raises UserError for a number of chips that no slice has: 1 or a power of two from 4.
    """
    if device.platform == "gpu":
        return f"1x{count}x1"
    chips = count // device.devices_a_chip
    exponent = round(math.log2(chips)) if chips else 0
    if chips * device.devices_a_chip != count or 2**exponent != chips or chips == 2:
        raise UserError(f"{device.name}: no slice has {chips} chips: 1, 4, 8, 16, ... have")
    if device.dimensions == 2:
        sides = [2 ** (exponent // 2), 2 ** (exponent - exponent // 2)]
    else:
        sides = sorted(2 ** ((exponent + i) // 3) for i in range(3))
        sides = [2, 2, 1] if chips == 4 else sides
    return f"{device.name}:{'x'.join(map(str, sides))}"


def target(device: Device) -> str:
    """A GPU in the words of XLA's GpuTargetConfigProto (text form)."""
    assert device.chip
    chip, limits = device.chip, ARCHITECTURES[device.chip.capability]
    major, minor = chip.capability
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": limits.shared,
        "threads_per_core_limit": limits.threads,
        "core_count": chip.cores,
        "fpus_per_core": limits.units,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(device.bandwidth),
        "l2_cache_size": chip.l2_mib * 2**20,
        "clock_rate_ghz": chip.ghz,
        "device_memory_size": device.memory,
        "shared_memory_per_block_optin": limits.shared_optin,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    lines = "\n".join(f"  {name}: {value}" for name, value in numbers.items())
    return (
        f"gpu_device_info {{\n{lines}\n  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 10 }}\n'
        f'device_description_str: "{chip.text}"\n'
    )
