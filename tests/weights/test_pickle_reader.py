import io
import os
import pickle
import pickletools
import time

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.weights import pickle_reader
from histojax.weights.pickle_reader import Placeholder, load_pickle, numpy_value


def load(data):
    return load_pickle(io.BytesIO(data), len(data))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_survive_every_protocol(protocol):
    value = {
        "a": [1, 2.5, None, True, False, "text", -(2**70)],
        "b": (1, (2, 3), ()),
        "c": {"d": {1: "x", (1, 2): "y"}},
        "set": {1, 2},
        "long": list(range(3000)),
    }
    if protocol >= 3:
        value["bytes"] = b"\x00\xff"
    assert load(pickle.dumps(value, protocol)) == value


class Evil:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, os.mkdir, pickle.loads])
def test_named_functions_are_never_called(function, protocol, tmp_path, monkeypatch):
    target = tmp_path / "executed"
    command = {
        os.system: f"touch {target}",
        os.mkdir: str(target),
        pickle.loads: pickle.dumps(Evil((os.mkdir, (str(target),)))),
    }.get(function, f"__import__('os').mkdir({str(target)!r})")
    result = load(pickle.dumps({"w": Evil((function, (command,)))}, protocol))
    assert not target.exists()
    assert isinstance(result["w"], Placeholder)
    pickle.loads(pickle.dumps(Evil((os.mkdir, (str(tmp_path / "control"),)))))
    assert (tmp_path / "control").exists()  # the same bytes do run in pickle itself


def test_every_way_to_call_or_build_is_inert(tmp_path):
    target = tmp_path / "executed"
    path = str(target).encode()
    argument = b"X" + len(path).to_bytes(4, "little") + path
    for program in (
        b"(" + argument + b"ios\nmkdir\n.",  # INST
        b"(cos\nmkdir\n" + argument + b"o.",  # OBJ
        b"cos\nmkdir\n(" + argument + b"t\x81.",  # NEWOBJ
        b"cos\nmkdir\n(" + argument + b"t}\x92.",  # NEWOBJ_EX
        b"\x8c\x02os\x8c\x05mkdir\x93(" + argument + b"tR.",  # STACK_GLOBAL
        b"cos\nmkdir\n}b.",  # BUILD on a name
    ):
        load(b"\x80\x04" + program)
        assert not target.exists()


def test_objects_keep_arguments_and_state_but_are_not_built():
    result = load(pickle.dumps({"o": np.random.default_rng(0)}, 2))
    assert result["o"].name.startswith("numpy.random")
    names = load(b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x01sb.")
    assert names.name == "argparse.Namespace" and names.state == {"a": 1}


def test_numpy_arrays_and_scalars():
    for value in (
        np.arange(6).reshape(2, 3),
        np.float32(1.5),
        np.array([1.0, 2.0], ">f4"),
        np.asfortranarray(np.eye(3, 2)),
    ):
        found = numpy_value(load(pickle.dumps(value, 2)))
        np.testing.assert_array_equal(found, value)
    assert numpy_value(load(pickle.dumps(np.array([{}], object), 2))) is None
    assert numpy_value("text") is None


def test_recursive_structures_do_not_recurse():
    loop = []
    loop.append(loop)
    assert load(pickle.dumps(loop, 2))[0] is not None
    deep = b"\x80\x02" + b"(" * 30_000 + b"t" * 30_000 + b"."
    load(deep)  # 30,000 nested tuples: neither a crash ...
    with pytest.raises(UserError):
        load(b"\x80\x02" + b"(" * 30_000 + b".")  # (a mark is no value)


def test_deeply_nested_dict_keys_are_not_hashed():
    nested = b")" + b"\x85" * 50_000  # ((((...)))): hashing this in Python overflows the C stack
    result = load(b"\x80\x02}" + nested + b"K\x01s.")
    assert isinstance(next(iter(result)), Placeholder)


def test_expanding_tuples_cost_nothing():
    # 60 times: t = (t, t). Its repr, hash or comparison would take 2**60 steps
    bomb = b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"}h<K\x01s."
    start = time.perf_counter()
    load(bomb)
    assert time.perf_counter() - start < 2


def test_copying_a_long_list_over_and_over_is_refused(monkeypatch):
    monkeypatch.setattr(pickle_reader, "BUDGET", 1_000_000)
    items = b"](" + b"K\x01" * 10_000 + b"eq\x00" + b"0"
    copies = b"cbuiltins\ntuple\nq\x010" + b"h\x01h\x00\x85R0" * 1000
    with pytest.raises(UserError, match="more work"):
        load(b"\x80\x02" + items + copies + b"N.")


@pytest.mark.parametrize(
    "claim",
    [
        b"\x8e" + (1 << 62).to_bytes(8, "little"),  # BINBYTES8 of 4 EiB
        b"\x8d" + (1 << 40).to_bytes(8, "little"),  # BINUNICODE8 of 1 TiB
        b"T" + (0x7FFFFFFF).to_bytes(4, "little"),  # BINSTRING of 2 GiB
        b"\x8b" + (0x7FFFFFFF).to_bytes(4, "little"),  # LONG4 of 2 GiB
    ],
)
def test_claims_of_huge_values_are_refused_without_allocating(claim):
    with pytest.raises(UserError, match="truncated"):
        load(b"\x80\x04" + claim + b"x.")


def test_huge_memo_index_allocates_nothing():
    assert load(b"\x80\x02Nr\xff\xff\xff\xff.") is None


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}K\x01s.",
        b"\x80\x02tR.",
        b"\x80\x02K\x01",
        b"abc",
        b"\x80\x02\x82\x01.",
        b"\x80\x02h\x05.",
    ],
)
def test_malformed_programs_are_user_errors(junk):
    with pytest.raises(UserError):
        load(junk)


def test_every_truncation_is_a_user_error():
    data = pickle.dumps({"a": [1, 2, (3, "four")], "b": Evil((os.getcwd, ()))}, 2)
    for length in range(len(data)):
        with pytest.raises(UserError):
            load(data[:length])


def test_the_file_is_left_behind_the_pickle():
    file = io.BytesIO(pickle.dumps(1, 2) + b"rest")
    load_pickle(file, len(file.getvalue()))
    assert file.read() == b"rest"


def test_no_opcode_is_forgotten():
    """Every opcode is either run or refused by name; this lists those refused."""
    tables = (getattr(pickle_reader, name) for name in ("_CONSTANTS", "_LITERALS", "_TUPLES", "_PUSHES", "_CHANGES"))
    refused = {op.name for op in pickletools.opcodes} - {"STOP"}.union(*tables)
    assert refused == {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"}
