"""What a run starts from. Oracle: the table of modes of the reference page, section 9, row by row."""

import pytest

from ptychoflow.arms.ptychovit.restore import Given, PtychoVitConfig, State, decide
from ptychoflow.config import parse
from ptychoflow.errors import UsageError

BEST, LATEST, STATE, CONFIG = "best_model.pth", "checkpoint_model.pth", "checkpoint.state", "config.yaml"
ALL = (BEST, LATEST, STATE, CONFIG)
SEEDS = (BEST, LATEST, STATE)
INFER = (False, False, (), "checkpoint")
RESUME = (True, True, SEEDS, "checkpoint")
NEW = (True, False, (), "checkout")


def folder(*files):
    return Given("folder", files, True, "run7")


def inference(kind, *files):
    return Given(kind, files, False, "run7")


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        # mode inference: best_model.pth or an explicit file, with its config; nothing is ever trained instead
        ({}, inference("folder", *ALL), INFER),
        ({}, inference("folder", BEST, CONFIG), INFER),
        ({}, inference("file", CONFIG), INFER),
        ({"resume_from_checkpoint": False}, inference("file", CONFIG), INFER),
        ({}, inference("folder", LATEST, STATE, CONFIG), "PV-CKPT: mode inference: run7 has no best_model.pth"),
        ({}, inference("folder", BEST), "PV-CKPT: mode inference: run7 has no config.yaml"),
        ({}, inference("file"), "PV-CKPT: mode inference: run7 has no config.yaml"),
        ({}, inference("absent"), "PV-CKPT: mode inference: the checkpoint run7 does not exist"),
        ({}, inference("none"), "PV-CKPT: mode inference needs best_model.pth"),
        ({}, folder(*ALL), "usage: mode inference trains nothing"),
        ({"resume_from_checkpoint": True}, inference("folder", *ALL), "usage: resume_from_checkpoint = true contradicts"),
        # mode resume: weights after the last epoch, optimizer, config; best weights go along where there are any
        ({"mode": "resume"}, folder(*ALL), RESUME),
        ({"mode": "resume", "resume_from_checkpoint": True}, folder(*ALL), RESUME),
        ({"mode": "resume"}, folder(LATEST, STATE, CONFIG), (True, True, (LATEST, STATE), "checkpoint")),
        ({"mode": "resume"}, folder(BEST, STATE, CONFIG), "PV-RESUME: mode resume: run7 has no checkpoint_model.pth"),
        ({"mode": "resume"}, folder(BEST, LATEST, CONFIG), "PV-RESUME: mode resume: run7 has no checkpoint.state"),
        ({"mode": "resume"}, folder(BEST, LATEST, STATE), "PV-RESUME: mode resume: run7 has no config.yaml"),
        ({"mode": "resume"}, folder(BEST), "PV-RESUME: 3 times"),
        ({"mode": "resume"}, Given("file", (CONFIG,), True, "best.pth"), "PV-RESUME: mode resume needs the folder of a run"),
        ({"mode": "resume"}, Given("none", (), True), "PV-RESUME: mode resume needs the folder of a run"),
        ({"mode": "resume"}, Given("absent", (), True, "run7"), "PV-CKPT: mode resume: the checkpoint run7 does not exist"),
        ({"mode": "resume"}, inference("folder", *ALL), "usage: mode resume needs train pairs"),
        ({"mode": "resume", "resume_from_checkpoint": False}, folder(*ALL), "usage: resume_from_checkpoint = false"),
        # mode finetune: the guardrail, before anything else, then as resume
        ({"mode": "finetune", "resume_from_checkpoint": True}, folder(*ALL), RESUME),
        ({"mode": "finetune"}, folder(*ALL), "PV-FINETUNE: mode finetune only resumes in this version"),
        ({"mode": "finetune", "resume_from_checkpoint": False}, Given("none"), "PV-FINETUNE: mode finetune only resumes"),
        ({"mode": "finetune", "resume_from_checkpoint": True}, folder(BEST, CONFIG), "PV-RESUME: 2 times"),
        ({"mode": "finetune", "finetune_policy": "progressive"}, folder(*ALL), "usage: finetune_policy 'progressive'"),
        # mode train: random weights, only when it is said, and never beside a checkpoint
        ({"mode": "train"}, Given("none", (), True), NEW),
        ({"mode": "train"}, folder(*ALL), "usage: mode train starts from random weights"),
        ({"mode": "train"}, Given("absent", (), True, "run7"), "usage: mode train starts from random weights"),
        ({"mode": "train"}, Given("none"), "usage: mode train needs train pairs"),
        ({"mode": "train", "resume_from_checkpoint": True}, Given("none", (), True), "usage: resume_from_checkpoint = true"),
    ],
)  # fmt: skip
def test_the_table(options, given, expected):
    config = parse(PtychoVitConfig, options, what="ptychovit")
    if isinstance(expected, tuple):
        restore, found = decide(config, given, device="cpu")
        assert found == []
        assert (restore.trains, restore.resumes, restore.seeds, restore.config_from) == expected
        return
    code, text = expected.split(": ", 1)
    if code == "usage":
        with pytest.raises(UsageError, match=text):
            decide(config, given, device="cpu")
        return
    restore, found = decide(config, given, device="cpu")
    assert restore is None
    assert {(one.code, one.kind) for one in found} == {(code, "E")}
    if text.endswith(" times"):
        assert len(found) == int(text.split()[0])
    else:
        assert found[0].text.startswith(expected)


@pytest.mark.parametrize(
    ("epochs", "devices", "device", "told"),
    [
        (5, ("cpu",), "cpu", None),
        (5, ("cpu", "cuda:0"), "cuda", None),
        (4, ("cpu",), "cpu", "checkpoint.state has done 4 epochs and epochs (the total) is 4"),
        (3, ("cpu",), "cpu", "checkpoint.state has done 4 epochs and epochs (the total) is 3"),
        (5, ("cpu", "cuda:0"), "cpu", "was written on cuda:0"),
    ],
)
@pytest.mark.parametrize("mode", ["resume", "finetune"])
def test_what_the_state_decides(mode, epochs, devices, device, told):
    """Oracle: rows of PV-RESUME: an empty range of epochs ends in a NameError upstream; the state is loaded without mapping."""
    config = PtychoVitConfig(mode=mode, resume_from_checkpoint=True)
    restore, found = decide(config, folder(*ALL), device=device, epochs=epochs, state=State(4, devices))
    if told is None:
        assert restore is not None
        assert found == []
    else:
        assert restore is None
        assert [one.code for one in found] == ["PV-RESUME"]
        assert told in found[0].message


def test_the_refused_policy_says_why():
    with pytest.raises(UsageError, match="one learning rate for the whole encoder; use 'resume'"):
        decide(PtychoVitConfig(mode="finetune", finetune_policy="progressive"), folder(*ALL), device="cpu")
