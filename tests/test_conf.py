"""conf/ and the schema: every file composes, every setting is read, every mistake is refused."""

import inspect
import pickle
import re
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import yaml
from omegaconf.errors import MissingMandatoryValue
from tiny_runs import compose_config

from vqgan_train.cli import explain, user_can_fix
from vqgan_train.config.checks import config_dir, plain_settings, setting_names
from vqgan_train.config.model import (
    AdaptiveWeightScope,
    ArchitectureConfig,
    DiscriminatorConfig,
    TrainedPart,
)
from vqgan_train.config.run import Config
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.system.errors import UserError
from vqgan_train.training.run.settings_comparison import ADDED, CHANGEABLE, different_settings
from vqgan_train.training.setup.quantities import learning_rate

FILES = sorted(config_dir().rglob("*.yaml"))
OPTIONS = [
    (file.parent.name, file.stem)
    for file in FILES
    if file.parent not in (config_dir(), config_dir() / "experiment")
]
EXPERIMENTS = [file.stem for file in FILES if file.parent.name == "experiment"]
MANDATORY = ("data.train_shards=t.tar", "data.val_shards=v.tar", "model.init_from=x.ckpt")
"""What some file leaves to the user."""

ORIGINALS = ("finetune", "part1", "part2")
"""Experiments that repeat the original's recipe."""

FOR_EXPERIMENT = {"part2": MANDATORY[:2]}
"""Where it is less: Part 2 has its weights from Part 1."""

PACKAGE = Path(__file__).parents[1] / "vqgan_train"
SOURCE_THAT_KNOWS_CONFIG = "\n".join(
    file.read_text()
    for file in sorted(PACKAGE.rglob("*.py"))
    if PACKAGE / "config" not in file.parents and "vqgan_train.config" in file.read_text()
)


def test_there_are_files_of_each_kind() -> None:
    assert {group for group, _ in OPTIONS} == {
        "model",
        "loss",
        "data",
        "optim",
        "trainer",
        "logger",
    }
    assert "finetune" in EXPERIMENTS
    commands = list(config_dir().glob("*.yaml"))
    assert len(FILES) == len(OPTIONS) + len(EXPERIMENTS) + len(commands)


def test_the_default_composes_and_needs_nothing_from_the_user() -> None:
    config = compose_config()
    assert config.data.train_shards is None
    assert config.model.init_from is None


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    config = compose_config(f"{group}={option}", *MANDATORY)
    assert is_dataclass(getattr(config, group))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds(name: str) -> None:
    assert_builds(compose_config(f"experiment={name}", *FOR_EXPERIMENT.get(name, MANDATORY)))


@pytest.mark.parametrize("name", [option for group, option in OPTIONS if group == "model"])
def test_every_model_builds(name: str) -> None:
    assert_builds(compose_config(f"model={name}", *MANDATORY))


def assert_builds(config: Config) -> None:
    with torch.device("meta"):
        model = VQGAN(**asdict(config.model.architecture))
        PatchDiscriminator(in_channels=3, **asdict(config.model.discriminator))
    assert model.downsampling == config.model.architecture.downsampling


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_recipe_is_kept(name: str) -> None:
    config = compose_config(f"experiment={name}", *FOR_EXPERIMENT.get(name, MANDATORY))
    assert asdict(config.model.architecture) == {
        "channels": 128,
        "channel_multipliers": [1, 1, 2, 2, 4],
        "num_residual_blocks": 2,
        "attention_resolutions": [16],
        "resolution": 256,
        "latent_channels": 256,
        "code_dim": 256,
        "codebook_size": 16_384,
        "dropout": 0.0,
        "resample_with_convolution": True,
    }
    assert asdict(config.model.discriminator) == {"channels": 64, "num_layers": 2}
    assert config.model.trained is TrainedPart.all
    assert asdict(config.loss) == {
        "perceptual_weight": 1.0,
        "adversarial_weight": 0.75,
        "codebook_weight": 1.0,
        "commitment_weight": 0.25,
        "legacy_codebook_loss": True,
        "discriminator_start_step": 0,
        "adversarial_start_step": 0,
        "discriminator_warmup_steps": 1000,
        "adaptive_weight_scope": AdaptiveWeightScope.per_rank,
        "lpips_weights": None,
    }
    assert config.optim.betas == [0.5, 0.9]
    assert config.optim.discriminator_betas is None
    assert config.optim.discriminator_learning_rate is None
    assert config.optim.clip_norm is None
    images = config.data.batch_size * config.optim.accumulate_batches
    assert learning_rate(config) == pytest.approx(4.5e-6 * images)
    assert (config.data.resize, config.data.image_size) == (256, 256)
    assert not config.data.random_crop
    assert not config.data.random_flip
    assert config.trainer.precision.value == "bf16-mixed"  # docs/speed.md, docs/differences.md


def test_the_decoders_recipe_is_the_originals_except_for_what_stays() -> None:
    finetune, decoder = (
        plain_settings(compose_config(f"experiment={name}", *MANDATORY))
        for name in ("finetune", "decoder")
    )
    assert different_settings(finetune, decoder, re.compile("(?!)")) == {
        "model.trained": ("all", "decoder"),
        "loss.codebook_weight": (1.0, 0.0),
    }


def test_the_parts_are_the_cards_images_once() -> None:
    part1 = compose_config("experiment=part1", *MANDATORY)
    part2 = compose_config("experiment=part2", *FOR_EXPERIMENT["part2"])
    assert part1.run.max_images == 2_268_720 // 2
    assert part2.run.max_images == 2_268_720
    assert part1.run.max_steps is part2.run.max_steps is None
    assert part2.run.parent == f"{part1.run.output_dir}/checkpoints/last.ckpt"
    assert part2.run.seed == part1.run.seed


def test_finetuning_leaves_to_the_user_what_only_the_user_knows() -> None:
    for missing in MANDATORY:
        given = [value for value in MANDATORY if value != missing]
        with pytest.raises(MissingMandatoryValue) as raised:
            compose_config("experiment=finetune", *given)
        setting = missing.split("=")[0]
        assert (
            explain(raised.value, Config)
            == f"{setting} has no value yet. Give it one: {setting}=..."
        )


def test_no_file_repeats_what_it_inherits() -> None:
    for group, option in OPTIONS:
        own, parent = own_and_inherited(config_dir() / group / f"{option}.yaml")
        assert not own.items() & parent.items(), f"{group}/{option}.yaml"
    for name in EXPERIMENTS:
        content = yaml.safe_load((config_dir() / "experiment" / f"{name}.yaml").read_text())
        chosen = [
            f"experiment={parent}"
            if isinstance(parent, str)
            else "=".join(next(iter(parent.items()))).removeprefix("override /")
            for parent in content.pop("defaults")
        ]
        inherited = hashable_leaves(plain_settings(compose_config(*chosen, *MANDATORY)))
        assert not hashable_leaves(content).items() & inherited.items(), name


def own_and_inherited(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = yaml.safe_load(file.read_text())
    parents = content.pop("defaults", [])
    inherited: dict[str, Any] = {}
    for parent in parents:
        above, further = own_and_inherited(file.with_name(f"{parent}.yaml"))
        inherited |= further | above
    return hashable_leaves(content), inherited


def hashable_leaves(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= hashable_leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def test_every_setting_is_read() -> None:
    passed_whole = {
        "model.architecture": (ArchitectureConfig, VQGAN),
        "model.discriminator": (DiscriminatorConfig, PatchDiscriminator),
    }
    for name, (schema, network) in passed_whole.items():
        arguments = inspect.signature(network).parameters.keys()
        assert {field.name for field in fields(schema)} <= arguments
        assert f"asdict(config.{name})" in SOURCE_THAT_KNOWS_CONFIG
    names = setting_names(Config)
    leaves = {n for n in names if not any(other.startswith(f"{n}.") for other in names)}
    unread = {
        name
        for name in leaves
        if not name.startswith(tuple(f"{whole}." for whole in passed_whole))
        and not re.search(rf"\.{name.split('.')[-1]}\b", SOURCE_THAT_KNOWS_CONFIG)
    }
    assert not unread, "settings that nothing reads"


def test_every_setting_has_a_value_in_yaml_and_none_in_the_schema() -> None:
    assert set(hashable_leaves(plain_settings(compose_config("logger=wandb")))) >= {
        name for name in setting_names(Config) if not schema_of(name)
    }
    for schema in (Config, ArchitectureConfig, DiscriminatorConfig):
        with pytest.raises(TypeError, match=r"missing .* required keyword-only"):
            schema()


def schema_of(name: str) -> bool:
    """Whether a name is that of a group."""
    return any(other.startswith(f"{name}.") for other in setting_names(Config))


def test_every_schema_refuses_unknown_attributes() -> None:
    def visit(schema: type) -> None:
        assert "__slots__" in vars(schema), schema
        for hint in get_type_hints(schema).values():
            for alternative in getattr(hint, "__args__", (hint,)):
                if is_dataclass(alternative) and isinstance(alternative, type):
                    visit(alternative)

    visit(Config)


MISTAKES = {
    # unknown
    "run.max_step=3": "no setting run.max_step. Did you mean run.max_steps",
    "run.seed=-1": "run.seed is -1; it must be in [0, 2**32)",
    "model.architecture.dropout=1": "model.architecture.dropout is 1.0; it must be in [0, 1)",
    "data.batchsize=3": "no setting data.batchsize. Did you mean data.batch_size",
    "model.architecture.chanels=32": "Did you mean model.architecture.channels",
    "modle=small": "Did you mean model?",
    "model=big": "f16_16384\n\tsmall",
    "experiment=part9": "finetune",
    "+data.batchsize=3": "no setting 'batchsize'",
    "++data.batchsize=3": "no setting 'batchsize'",
    "+batchsize=3": "no setting 'batchsize'",
    "+data={batchsize:3}": "batchsize",
    "logger.wandb.project=x": "logger=wandb",
    # of a wrong type
    "run.max_steps=soon": "to Integer. Give a whole number or null.",
    "run.max_steps=1.5": "run.max_steps: Value '1.5'",
    "run.seed=null": "run.seed: field 'run.seed' is not Optional. Give a whole number.",
    "run=3": "run: Invalid type assigned",
    "data.random_flip=perhaps": "is not a valid bool (type str). Give true or false.",
    "trainer.profile_step=two": "trainer.profile_step: Value 'two'",
    "optim.learning_rate=small": "could not be converted to Float. Give a number.",
    "optim.clip_norm=small": "could not be converted to Float. Give a number or null.",
    "optim.betas=0.5": "optim.betas: Invalid value assigned",
    "optim.betas=[a,b]": "optim.betas[0]: Value 'a'",
    "trainer.precision=bf8": "expected one of [fp32, bf16, fp16]",
    "trainer.accelerator=tpu": "expected one of [auto, cpu, gpu, mps]",
    # missing
    "data=webdataset": "data.train_shards has no value yet. Give it one: data.train_shards=...",
    "~run": "'run'",
    "run.output_dir=${run.sed}": "Interpolation key 'run.sed' not found",
    # out of range
    "run.max_steps=0": "run.max_steps is 0; it must be at least 1",
    "run.max_images=0": "run.max_images is 0",
    "run.max_steps=null": "run.max_steps and run.max_images are null: the run would never end",
    "run.val_every_steps=0": "run.val_every_steps is 0",
    "run.checkpoint_every_steps=0": "run.checkpoint_every_steps is 0",
    "run.log_every_steps=0": "run.log_every_steps is 0",
    "run.num_pictures=0": "run.num_pictures is 0",
    "run.val_metrics=[psnr,fid]": "expected one of [psnr, ssim, lpips_alexnet, lpips_alex]",
    "run.best_metric=val/loss/perceptua": "Did you mean val/loss/perceptual? It can be one of",
    "run.best_metric=train/loss/pixel": "run.best_metric is 'train/loss/pixel', which no valid",
    "data.batch_size=0": "data.batch_size is 0",
    "data.num_workers=-1": "data.num_workers is -1; it must be at least 0",
    "data.image_size=0": "data.image_size is 0",
    "data.attempts=0": "data.attempts is 0; it must be at least 1",
    "data.patience_seconds=-1": "data.patience_seconds is -1.0; it must be at least 0",
    "data.patience_seconds=3600": "it must be at most 1200: ranks wait 30 minutes for one",
    "data.cache_gb=0": "data.cache_gb is 0.0; it must be more than 0",
    "data.stall_seconds=0": "data.stall_seconds is 0.0; it must be more than 0",
    "data.shuffle_shards=0": "data.shuffle_shards is 0; it must be at least 1",
    "data.shard_lanes=0": "data.shard_lanes is 0; it must be at least 1",
    "data.shard_lanes=4": "data.shard_lanes is 4, but data.shuffle_shards is null. Set",
    "data.shard_lanes=4 data.shuffle_shards=6": "Set data.shuffle_shards to a multiple of 4",
    "data.shard_lanes=4 data.shuffle_shards=8 data.sampling=with_replacement": "data.shard_lanes "
    "is 4, but data.sampling=with_replacement draws from all shards",
    "loss.adaptive_weight_scope=sum": "expected one of [per_rank, mean]",
    "data.sampling=twice": "expected one of [exactly_once, with_replacement]",
    "data.max_bad_fraction=1": "data.max_bad_fraction is 1.0; it must be in [0, 1)",
    "data.max_bad_fraction=-0.1": "data.max_bad_fraction is -0.1",
    "model.code_scale=0": "model.code_scale is 0.0; it must be more than 0, or null",
    "model.architecture.channels=48": "model.architecture.channels is 48; the norms need a mult",
    "model.architecture.channels=0": "model.architecture.channels is 0",
    "model.architecture.channel_multipliers=[]": "channel_multipliers is empty",
    "model.architecture.channel_multipliers=[1,0]": "channel_multipliers is 0; it must be at least",
    "model.architecture.num_residual_blocks=0": "num_residual_blocks is 0",
    "model.architecture.latent_channels=0": "latent_channels is 0",
    "model.architecture.code_dim=0": "code_dim is 0",
    "model.architecture.codebook_size=0": "codebook_size is 0",
    "model.discriminator.channels=0": "model.discriminator.channels is 0",
    "model.discriminator.num_layers=0": "model.discriminator.num_layers is 0",
    "loss.perceptual_weight=-1": "loss.perceptual_weight is -1.0; it must be at least 0",
    "loss.perceptual_weight=nan": "loss.perceptual_weight is nan",
    "loss.adversarial_weight=-1": "loss.adversarial_weight is -1",
    "loss.codebook_weight=-1": "loss.codebook_weight is -1",
    "loss.commitment_weight=-1": "loss.commitment_weight is -1",
    "loss.discriminator_start_step=-1": "loss.discriminator_start_step is -1",
    "loss.discriminator_warmup_steps=-1": "loss.discriminator_warmup_steps is -1",
    "optim.learning_rate=0": "optim.learning_rate is 0.0; it must be more than 0",
    "optim.learning_rate=nan": "optim.learning_rate is nan",
    "optim.betas=[0.5]": "optim.betas is [0.5]; it must be two numbers in [0, 1)",
    "optim.discriminator_betas=[0.5]": "optim.discriminator_betas is [0.5]; it must be two",
    "optim.discriminator_learning_rate=0": "optim.discriminator_learning_rate is 0.0; it must be",
    "optim.betas=[0.5,1]": "optim.betas is [0.5, 1.0]",
    "optim.accumulate_batches=0": "optim.accumulate_batches is 0",
    "optim.max_skipped_steps=0": "optim.max_skipped_steps is 0",
    "optim.clip_norm=0": "optim.clip_norm is 0.0; it must be more than 0, or null for none",
    "trainer.devices=0": "trainer.devices is 0; it must be a number from 1 up, or auto",
    "trainer.devices=all": "trainer.devices is 'all'",
    "trainer.num_nodes=0": "trainer.num_nodes is 0; it must be a number from 1 up, or auto",
    "trainer.memory_format=nhwc": "expected one of [channels_last, contiguous]",
    "trainer.profile_step=-1": "trainer.profile_step is -1",
    "run.max_hours=0": "run.max_hours is 0.0; it must be more than 0, or null",
    "logger=wandb logger.wandb.upload_every_steps=0": "logger.wandb.upload_every_steps is 0",
    "logger=wandb logger.wandb.keep_versions=-1": "logger.wandb.keep_versions is -1",
    # in contradiction
    "run.best_metric=val/ssim run.val_metrics=[psnr]": "run.best_metric is val/ssim, but "
    "run.val_metrics=[psnr] leaves it out. Add ssim to run.val_metrics, or change run.best_metric.",
    "logger=wandb logger.wandb.upload_every_steps=200": "upload_every_steps is 200, but last.ckpt, "
    "which is uploaded, is written every run.checkpoint_every_steps=150: take a multiple",
    "model.trained=decoder": "model.trained=decoder keeps the tokens of trained weights, but",
    "model.trained=decoder model.architecture.dropout=0.1": "dropout is 0.1, which in training",
    "run.parent=a.ckpt model.init_from=b.ckpt": "run.parent=a.ckpt provides the weights",
    "model.architecture.channel_multipliers=[1,1,1] data.image_size=66": "data.image_size is 66, "
    "but the model halves images 2 times (f = 4): take a multiple of 4, such as 64",
    "data.image_size=8": "LPIPS and model.discriminator.num_layers=2 need 16 pixels",
    "model.architecture.channel_multipliers=[1,1] model.discriminator.num_layers=3 "
    "data.image_size=22": "LPIPS and model.discriminator.num_layers=3 need 24 pixels",
    "run.val_metrics=[lpips_alexnet] data.image_size=16": "data.image_size is 16, but lpips_alex"
    "net of run.val_metrics needs 32 pixels or more. Leave it out, or raise data.image_size",
    "data.image_size=64 data.resize=63": "data.resize is 63, smaller than data.image_size=64",
    "data.source_weights=[1]": "data.source_weights is set, but data.sampling=exactly_once draws",
    "data=webdataset data.train_shards=[a.tar,b.tar] data.val_shards=v.tar "
    "data.sampling=with_replacement data.source_weights=[1,-2]": "data.source_weights is [1, -2]; "
    "it must be a list of numbers, 0 or more, one for each of the 2 patterns",
    "data=webdataset data.train_shards=[a.tar,b.tar] data.val_shards=v.tar "
    "data.sampling=with_replacement data.source_weights=[1,2,3]": "one for each of the 2 patterns",
    "data=webdataset data.train_shards=[a.tar,b.tar] data.val_shards=v.tar "
    "data.sampling=with_replacement data.source_weights=[0,0]": "data.source_weights is [0, 0]",
    "data.train_shards=t.tar": "data.train_shards is ['t.tar'], data.val_shards is null: set both",
    "loss.discriminator_start_step=20 loss.adversarial_start_step=10": "start_step is 10, before "
    "loss.discriminator_start_step=20",
}
"""Overrides, and a part of what they are answered."""


@pytest.mark.parametrize(("overrides", "message"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_refused_with_what_to_change(overrides: str, message: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which class is Hydra's business
        compose_config(*overrides.split(" "))
    assert user_can_fix(raised.value)
    assert message in explain(raised.value, Config)


def test_every_check_of_the_schema_has_a_mistake_above() -> None:
    checked: set[str] = set()
    for name in ("data", "model", "run", "trainer"):  # other commands have tests of their own
        source = (PACKAGE / "config" / f"{name}.py").read_text()
        checked |= {name.replace("__", ".") for name in re.findall(r"(\w+__\w+)=", source)}
        checked |= set(re.findall(r'f?"([a-z_]+(?:\.[a-z_]+)+) is (?:\{|empty)', source))
    assert len(checked) > 25
    mistaken = {o.split("=")[0] for overrides in MISTAKES for o in overrides.split(" ")}
    assert checked <= mistaken, "checks without a test"


def test_a_config_made_in_python_is_checked_too() -> None:
    config = compose_config()
    with pytest.raises(UserError, match=r"optim.learning_rate"):
        type(config.optim)(**{**asdict(config.optim), "learning_rate": -1.0})


def test_settings_cannot_be_changed_only_replaced() -> None:
    config = compose_config("logger=wandb")
    settings = plain_settings(config)
    for group in (config, *(getattr(config, field.name) for field in fields(config))):
        for field in fields(group):
            with pytest.raises(FrozenInstanceError):
                setattr(group, field.name, getattr(group, field.name))
    for copied in (deepcopy(config), pickle.loads(pickle.dumps(config)), replace(config)):
        assert plain_settings(copied) == settings
    with pytest.raises(UserError, match=r"run.seed is -1"):
        replace(config.run, seed=-1)


def test_settings_survive_their_way_through_yaml() -> None:
    config = compose_config("trainer.precision=bf16", "logger=wandb", "optim.learning_rate=1e-6")
    settings = plain_settings(config)
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    assert settings["trainer"]["precision"] == "bf16"
    assert settings["logger"]["wandb"]["mode"] == "online"


def test_a_setting_that_old_runs_lack_is_changeable_or_has_a_value_for_them() -> None:
    """Otherwise no run of before could resume: add the setting to `ADDED`."""
    recorded = different_settings({}, plain_settings(compose_config()), CHANGEABLE)
    assert recorded.keys().isdisjoint(ADDED), "the default job does what old runs did"
    assert len(recorded) == 42, "as many as the oldest runs record"
