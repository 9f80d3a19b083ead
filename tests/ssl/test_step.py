import dataclasses
import functools
import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file
from tiny_recipe import spread_state, start_state, tiny_config, tiny_images, tiny_recipe

from histojax.parallel.mesh import make_mesh
from histojax.parallel.sharding import Layout
from histojax.ssl import step as steps
from histojax.ssl.state import TrainState
from histojax.ssl.trainable import whole
from histojax.training.checkpoints import Checkpoints
from histojax.training.first_state import first_state
from histojax.training.recipe import schedules_of
from histojax.training.results import training_tensors
from histojax.training.start import load_start
from histojax.weights.trees import flatten

KEY = jax.random.key(3)
FUSION = "xla_cpu_use_fusion_emitters"  # conftest.py turns it off; with it pixels round alike in different programs
SAME_ROUNDING = {FUSION: True} if FUSION in os.environ["XLA_FLAGS"] else {}
TERMS = ("loss", "dino_global", "dino_local", "ibot", "koleo")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs run for milliseconds and compile for many seconds: skip what only makes them run faster."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def schedule(i=50, **leaves):
    return schedules_of(tiny_config(**leaves)).at(i)


@functools.cache
def views_of(shards=1):
    """Crops and masks of one batch, in one or more shards; made once, since compiling them is the slow part."""
    recipe = tiny_recipe(mesh__batch_shards=shards)
    return jax.jit(partial(steps.make_views, recipe))(tiny_images(), jax.random.key(1), jax.random.key(2))


def loss_and_gradient(recipe, state, views, key=None):
    return _loss_and_gradient(recipe, state, views, key)


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(recipe, state, views, key):
    target, _ = steps.teach(recipe, state.parameters("teacher"), state.centres, views, jnp.float32(0.05))
    return steps.student_gradient(recipe, state.networks["student"], state.frozen, views, target, key)


@partial(jax.jit, static_argnums=0)
def teach(recipe, state, views):
    return steps.teach(recipe, state.parameters("teacher"), state.centres, views, jnp.float32(0.05))


def gap(a, b):
    """Largest difference relative to the norm of each leaf."""
    return max(
        float(jnp.abs(x - y).max() / (jnp.linalg.norm(x) + 1e-12))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


@functools.cache
def tiny_step():
    return steps.make_step(tiny_recipe())


@functools.cache
def tiny_update():
    """Everything of a step but its crops and masks."""
    return jax.jit(partial(steps.update, tiny_recipe(), key=KEY))


def test_step_trains_and_compiles_once():
    recipe, step = tiny_recipe(), tiny_step()
    state = start_state(recipe)
    assert not any(x.weak_type for x in jax.tree.leaves(state))
    before = jax.tree.map(np.array, state.networks["student"])
    for i in range(3):
        state, metrics = step(state, tiny_images(i), KEY, schedule())
    assert step._cache_size() == 1
    assert int(state.step) == 3
    assert all(np.isfinite(float(v)) for v in metrics.values()) and float(metrics["skipped"]) == 0
    assert gap(before, state.networks["student"]) > 1e-5 and gap(*state.networks.values()) > 1e-5


def run_steps(state, first, last):
    for i in range(first, last):
        state, _ = tiny_step()(state, tiny_images(i), KEY, schedule(i))
    return state


def test_every_step_has_crops_masks_and_drops_of_its_own():
    """With nothing learned between two steps on the same images, only their random numbers tell them apart."""
    keys = [jax.random.key_data(k).tolist() for step in range(3) for k in steps.step_keys(KEY, step)]
    assert len({tuple(k) for k in keys}) == 9
    still = (
        schedule()
        | {name: np.float32(0) for name in ("lr", "backbone_lr", "last_layer_lr")}
        | {"momentum": np.float32(1)}
    )
    state, seen = spread_state(tiny_recipe()), []
    for _ in range(3):
        state, metrics = tiny_step()(state, tiny_images(), KEY, still)
        seen.append([float(metrics[name]) for name in ("dino_global", "dino_local", "ibot", "feature_spread")])
    assert all(len(set(values)) == 3 for values in zip(*seen)), seen


def test_export_and_import_in_the_middle_change_nothing_that_files_carry(tmp_path):
    """Parameters go through files of the reference's names; moments, centres and the count are not in them."""
    straight = run_steps(start_state(tiny_recipe()), 0, 20)
    middle = run_steps(start_state(tiny_recipe()), 0, 10)
    sides = middle.networks
    for side, tree in sides.items():
        save_file(training_tensors(side, jax.device_get(tree)), tmp_path / f"{side}_checkpoint.safetensors")
    start = load_start(tiny_config(model__continue_from=str(tmp_path)), tiny_recipe(), offline=True)
    again = first_state(tiny_recipe(), start, jax.random.key(7), None)
    loaded = again.networks
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), sides, loaded))
    again = run_steps(dataclasses.replace(middle, networks=loaded), 10, 20)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, straight))


@pytest.mark.parametrize(
    "leaves",
    [
        {"loss__centering": "softmax", "model__drop_path": 0.3, "ibot_head__separate": True},
        {"model__train": "lora:2@last:1"},
    ],
    ids=["softmax, drop path, two heads", "low-rank pairs"],
)
def test_ten_steps_a_checkpoint_and_ten_more_are_twenty_to_the_bit(leaves, tmp_path):
    """Parameters, moments, centres with what is pending, and the count."""
    recipe = tiny_recipe(**leaves)
    step, state = steps.make_step(recipe), start_state(recipe)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for i in range(20):
        if i == 10:
            checkpoints.save(state, {})
        state, _ = step(state, tiny_images(i), KEY, schedule(i))
    resumed, _ = checkpoints.restore(start_state(recipe, seed=3))
    checkpoints.close()
    assert int(resumed.step) == 10
    for i in range(10, 20):
        resumed, _ = step(resumed, tiny_images(i), KEY, schedule(i))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), resumed, state))


def test_first_step_leaves_the_student_since_the_first_rate_is_zero():
    recipe = tiny_recipe()
    state = start_state(recipe)
    after, _ = tiny_update()(state, views_of(), schedule(0))
    assert all(np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(s.networks["student"]) for s in (state, after))))


@pytest.mark.parametrize(
    ("centering", "separate", "form"),
    [
        ("sinkhorn", False, "kept"),
        ("sinkhorn", False, "formed"),
        ("sinkhorn", False, "parts"),
        ("softmax", True, "parts"),
    ],
)
def test_chunks_of_tokens_and_the_form_of_targets_change_nothing(centering, separate, form):
    results, leaves = [], {"loss__centering": centering, "ibot_head__separate": separate}
    for chunk, targets in ((16, "kept"), (7, form)):
        recipe = tiny_recipe(**leaves, loss__token_chunk=chunk, loss__targets=targets)
        state = spread_state(recipe)
        results.append(loss_and_gradient(recipe, state, views_of()))
    for gradients, terms in results[1:]:
        assert float(terms["loss"]) == pytest.approx(float(results[0][1]["loss"]), rel=1e-6)
        assert gap(results[0][0], gradients) < 1e-5


@pytest.mark.parametrize("change", [{"unroll": 2}, {"remat": "block"}, {"remat": "dots"}, {"attention": "xla"}])
def test_scan_remat_and_attention_change_nothing(change):
    recipe = tiny_recipe()
    other = dataclasses.replace(recipe, vit=dataclasses.replace(recipe.vit, **change))
    state = spread_state(recipe)
    views = views_of()
    (g1, t1), (g2, t2) = (loss_and_gradient(r, state, views) for r in (recipe, other))
    assert float(t1["loss"]) == pytest.approx(float(t2["loss"]), rel=1e-6)
    assert gap(g1, g2) < 1e-5


SPREAD = {"mesh__batch_shards": 8, "batch_size": 16, "head__prototypes": 2048} | {
    "loss__targets": "parts",
    "model__ffn": "swiglu",
}


@functools.cache
def two_steps(devices, fsdp):
    """(state, metrics, compiled program) after two steps over some devices, always in eight shards."""
    recipe = tiny_recipe(
        mesh__batch_shards=8, batch_size=16, head__prototypes=2048, loss__targets="parts", model__ffn="swiglu"
    )
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    step, state = steps.make_step(recipe, mesh), spread_state(recipe)
    images = [tiny_images(i, n=16) for i in range(2)]
    if mesh:
        state = jax.device_put(state, Layout(mesh).state(state))
        images = jax.device_put(images, Layout(mesh).batch)
    compiled = step.lower(state, images[0], KEY, schedule()).compile(SAME_ROUNDING)
    for batch in images:
        state, metrics = compiled(state, batch, KEY, schedule())
    return jax.tree.map(np.array, state), {k: float(v) for k, v in metrics.items()}, compiled.as_text()


@pytest.mark.parametrize("fsdp", [1, 4, 8])
def test_eight_devices_equal_one(fsdp):
    """With the same shards; crops, masks, losses and the parameters after two steps."""
    (one, m1, _), (eight, m8, _) = two_steps(1, 1), two_steps(8, fsdp)
    for name in m1:
        assert m1[name] == pytest.approx(m8[name], rel=1e-6 if name in TERMS else 5e-6), name
    student = one.networks["student"], eight.networks["student"]
    bias = [tree["backbone"]["blocks"]["attn"]["qkv"]["bias"] for tree in student]
    np.testing.assert_allclose(*(b[:, 128:] for b in bias), atol=1e-5)  # the keys' bias has no true gradient
    assert gap(*(without_qkv_bias(tree) for tree in student)) < 1e-4


def collectives(text):
    """[(kind, shapes, where)] of a compiled program; `where` is "loop" within the body of one."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = []
    for line in text.splitlines():
        if match := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
            shapes = [
                tuple(map(int, filter(None, s.split(",")))) for s in re.findall(r"[a-z]\w+\[([\d,]*)\]", match[1])
            ]
            found.append((match[2], shapes, "loop" if "/while/body/" in line else "step"))
    return found


def dims(shape):
    """Without order and ones: programs turn arrays about."""
    return tuple(sorted(n for n in shape if n != 1))


@pytest.mark.parametrize("fsdp", [1, 8])
def test_devices_exchange_parameters_and_sums_but_no_activations(fsdp):
    """Arrays of a block or of an end are gathered, one block at a time; gradients are added up, each once."""
    recipe = tiny_recipe(**SPREAD)
    parameters = jax.eval_shape(lambda: recipe.init(jax.random.key(0)))
    blocks = {dims(x.shape[1:]) for x in jax.tree.leaves(parameters["backbone"]["blocks"])}
    ends = {
        dims(x.shape) for x in jax.tree.leaves({**parameters, "backbone": {**parameters["backbone"], "blocks": {}}})
    }
    ends |= {(16, 64), (4, 64)}  # positions of the patches of both kinds of crops
    found = collectives(two_steps(8, fsdp)[2])
    assert {kind for kind, _, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert any(kind == "all-gather" and where == "loop" for kind, _, where in found) == (fsdp == 8)
    for kind, shapes, where in found:
        for shape in (dims(shape) for shape in shapes if np.prod(shape) > 64):  # numbers and masks of images may meet
            assert shape in blocks | ends, (kind, shape)
            if kind == "all-gather":
                assert fsdp == 8 and (where == "loop" or shape in ends), shape
    in_loops = [dims(s) for kind, shapes, where in found if kind == "all-reduce" and where == "loop" for s in shapes]
    assert (16, 2048) not in in_loops, "gradients of prototypes are added up once, not for every chunk"


def test_the_gradient_over_eight_devices_is_that_of_one():
    recipe, views = tiny_recipe(), views_of()
    state = spread_state(recipe)
    mesh = make_mesh()
    whole, split = NamedSharding(mesh, PartitionSpec()), Layout(mesh).batch
    crops = jax.device_put((views.global_crops, views.local_crops), split)
    spread = steps.Views(*crops, jax.device_put(views.masks, whole))
    g1, t1 = loss_and_gradient(recipe, state, views)
    g8, t8 = loss_and_gradient(recipe, jax.device_put(state, whole), spread)
    for name in t1:
        assert float(t1[name]) == pytest.approx(float(t8[name]), rel=1e-6), name
    assert gap(g1, jax.device_get(g8)) < 1e-5


def without_qkv_bias(tree):
    return {path: leaf for path, leaf in flatten(tree).items() if not path.endswith("qkv/bias")}


def test_shards_are_the_reference_s_devices():
    """Two shards give the mean of what each half of the batch gives alone, where nothing is shared over devices."""
    recipe = tiny_recipe(mesh__batch_shards=2, loss__centering="softmax")
    state, views = spread_state(recipe), views_of(2)
    half = tiny_recipe(mesh__batch_shards=1, loss__centering="softmax")
    _, both = loss_and_gradient(recipe, state, views)

    def part(i):
        cut = slice(4 * i, 4 * i + 4)
        masks = jax.tree.map(lambda x: x[i : i + 1], views.masks)
        return steps.Views(views.global_crops[cut], views.local_crops[cut], masks)

    halves = [loss_and_gradient(half, state, part(i))[1] for i in range(2)]
    for name in ("dino_local", "dino_global", "ibot", "koleo"):
        assert float(both[name]) == pytest.approx(np.mean([float(h[name]) for h in halves]), rel=2e-6), name


def test_bad_gradient_skips_the_student_but_not_the_teacher_or_the_count():
    recipe = tiny_recipe()
    state = spread_state(recipe)
    views = views_of()
    broken = dataclasses.replace(views, local_crops=views.local_crops.at[0, 0, 0, 0].set(jnp.nan))
    after, metrics = tiny_update()(state, broken, schedule())
    assert float(metrics["skipped"]) == 1 and int(after.step) == 1
    assert all(np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(s.networks["student"]) for s in (state, after))))
    assert int(after.moments.count) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


@functools.cache
def gradient_of(train):
    """(gradients, terms) of what is trained, from the same parameters and views."""
    recipe = tiny_recipe(model__train=train)
    return loss_and_gradient(recipe, spread_state(recipe), views_of())


@pytest.mark.parametrize("train", ["last:1", "norms", "lora:2@last:1"])
def test_the_loss_and_the_gradients_that_remain_are_those_of_training_all(train):
    (some, terms), (every, of_all) = gradient_of(train), gradient_of("all")
    assert float(terms["loss"]) == pytest.approx(float(of_all["loss"]), rel=1e-6)
    every = flatten(every)
    for name, gradient in flatten(some).items():
        if "lora" not in name:
            full = every[name][-1:] if train == "last:1" and "/blocks/" in name else every[name]
            assert gap(gradient, full) < 1e-5 and np.any(gradient), name


def test_gradients_of_pairs_are_projections_of_the_kernel_s():
    word = "lora:2@last:1"
    pairs = spread_state(tiny_recipe(model__train=word)).networks["student"]["backbone"]["blocks"]
    some, every = (gradient_of(train)[0]["backbone"]["blocks"] for train in (word, "all"))
    for part, layer in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        expected = jnp.einsum("lir,lio->lro", pairs[part][layer]["lora_a"], every[part][layer]["kernel"][-1:])
        assert gap(some[part][layer]["lora_b"], expected) < 1e-4, layer
        assert not np.any(some[part][layer]["lora_a"])


def test_the_local_pass_waits_for_the_global_one_whatever_is_frozen():
    """In the compiled program, which is all that XLA:CPU heeds: its barriers are gone by then."""
    for done in ({}, {"a": jnp.ones((3, 2))}, {"a": jnp.ones(2), "b": {"c": jnp.ones(())}}):
        done = {"terms": {"loss": jnp.float32(1)}, "gradients": done}
        entry = jax.jit(lambda *a: steps.after(*a)[0]).lower(jnp.ones(5), done).compile().as_text().split("ENTRY")[1]
        inputs = re.findall(r"%(\S+) = \S+ parameter\(", entry)
        assert len(inputs) == 1 + len(jax.tree.leaves(done))
        assert all(len(re.findall(rf"%{re.escape(name)}[,)]", entry)) == 1 for name in inputs), entry
        assert np.array_equal(steps.after(jnp.arange(5.0), done)[0], np.arange(5.0))


@functools.cache
def program_of(train):
    """The lowered gradient of a choice of what is trained, not compiled."""
    recipe = tiny_recipe(model__train=train, model__remat="none")
    recipe = dataclasses.replace(recipe, vit=dataclasses.replace(recipe.vit, unroll=2))  # no loops: all is counted
    state = jax.eval_shape(lambda: spread_state(recipe))
    return jax.jit(lambda s, v: _loss_and_gradient.__wrapped__(recipe, s, v, None)).lower(state, views_of())


@pytest.mark.parametrize("train", ["all", "last:1", "lora:2@last:1", "lora:0"])
def test_the_local_pass_takes_every_gradient_of_the_global_one(train):
    state = jax.eval_shape(lambda: spread_state(tiny_recipe(model__train=train)))
    (barrier,) = [line for line in program_of(train).as_text().splitlines() if "optimization_barrier" in line]
    leaves = len(jax.tree.leaves(state.networks["student"]))
    assert barrier.split(" : ")[1].count("tensor<") == 1 + leaves + 3  # the crops, the gradients, three terms


def test_no_backward_pass_goes_through_what_is_frozen():
    flops = [program_of(train).cost_analysis()["flops"] for train in ("lora:0", "lora:2@last:1", "last:1", "all")]
    assert flops == sorted(flops) and flops[0] < 0.6 * flops[-1], flops


def test_a_whole_network_gives_the_features_of_its_parts():
    recipe = tiny_recipe(model__train="lora:2@last:1")
    state = spread_state(recipe)
    noisy = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), state)
    parts = noisy.parameters("teacher")
    plain = whole(jax.device_get(parts))
    shapes = jax.eval_shape(lambda: recipe.init(KEY))
    assert jax.tree.map(np.shape, plain) == jax.tree.map(np.shape, shapes)
    images = tiny_images(px=28)
    a, b = (steps.make_features(recipe)(tree["backbone"], images) for tree in (parts, plain))
    np.testing.assert_allclose(a, b, atol=2e-4 * float(jnp.abs(b).max()))


def test_bfloat16_stays_near_float32():
    """The bound that the documentation states: every term within 2 %."""
    recipe = tiny_recipe()
    state, views = spread_state(recipe), views_of()
    _, exact = loss_and_gradient(recipe, state, views)
    low = tiny_recipe(compute_dtype="bfloat16")
    _, rounded = loss_and_gradient(low, state, views)
    for name in ("loss", "dino_local", "dino_global", "ibot", "koleo"):
        assert float(rounded[name]) == pytest.approx(float(exact[name]), rel=0.02), name
        assert float(rounded[name]) != float(exact[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("eps", [1e-4, 1e-8])
def test_duplicate_and_blank_tiles_stay_finite(dtype, eps):
    recipe, views = tiny_recipe(compute_dtype=dtype, loss__koleo_eps=eps), views_of()
    views = dataclasses.replace(
        views, global_crops=jnp.ones_like(views.global_crops), local_crops=jnp.ones_like(views.local_crops)
    )
    gradients, terms = loss_and_gradient(recipe, spread_state(recipe), views)
    assert all(np.isfinite(float(t)) for t in terms.values())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_stochastic_depth_is_the_student_s_alone_and_rate_zero_is_none():
    dropped, plain = tiny_recipe(model__drop_path=0.5), tiny_recipe()
    state, views = spread_state(plain), views_of()
    a, _ = teach(dropped, state, views)
    b, _ = teach(plain, state, views)
    assert np.array_equal(a.cls.kernel, b.cls.kernel)
    none = loss_and_gradient(plain, state, views)
    zero = loss_and_gradient(plain, state, views, key=jax.random.key(9))
    some = loss_and_gradient(dropped, state, views, key=jax.random.key(9))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), none, zero))
    assert float(none[1]["loss"]) != float(some[1]["loss"])


def test_state_survives_a_trip_through_plain_dicts():
    recipe = tiny_recipe()
    state = start_state(recipe)
    again = TrainState.from_dict(state.as_dict())
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_no_local_crops():
    recipe, views = tiny_recipe(), views_of()
    views = dataclasses.replace(views, local_crops=views.local_crops[:, :0])
    state = start_state(recipe)
    _, metrics = tiny_update()(state, views, schedule())
    assert "dino_local" not in metrics and np.isfinite(float(metrics["loss"]))


def test_features_of_another_tile_size():
    recipe = tiny_recipe()
    features = steps.make_features(recipe)
    params = start_state(recipe).parameters("student")["backbone"]
    assert features(params, tiny_images(px=28)).shape == (8, 64)
    assert features(params, tiny_images(px=40)).dtype == jnp.float32
