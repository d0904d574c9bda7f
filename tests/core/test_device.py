"""The device that is taken, its threads and its precision."""

import os

import pytest
import torch

from vit_finetune.core import device as device_module
from vit_finetune.core.device import resolve_precision, resolve_shards, set_up_torch
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks


@pytest.fixture
def machine(monkeypatch):
    """A function that makes torch see a machine with these devices; torch's global settings are put
    back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # the first call imports what must see the true functions
    torch.use_deterministic_algorithms(deterministic)

    def with_devices(*names, capability=(0, 0), cpu_bfloat16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    yield with_devices
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize(
    ("asked", "devices", "there"),
    [
        ("cuda", ["cpu"], "cpu"),
        ("mps", ["cpu"], "cpu"),
        ("mps", ["cpu", "cuda"], "cuda, cpu"),
        ("cuda", ["cpu", "mps"], "mps, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_names_what_is(machine, asked, devices, there):
    machine(*devices)
    message = f"^runtime.device is {asked}, which this machine does not have; it has: {there}$"
    with pytest.raises(UserError, match=message):
        set_up_torch(asked, None)


@pytest.mark.parametrize(
    ("asked", "devices", "found"),
    [
        ("auto", ["cpu"], "cpu"),
        ("auto", ["cpu", "mps"], "mps"),
        ("auto", ["cpu", "cuda"], "cuda"),
        ("cpu", ["cpu", "cuda"], "cpu"),
        ("cuda", ["cpu", "cuda"], "cuda"),
    ],
)
def test_auto_takes_the_first_of_cuda_mps_cpu_and_a_name_is_obeyed(machine, asked, devices, found):
    machine(*devices)
    assert set_up_torch(asked, None) == torch.device(found)


def test_the_threads_and_deterministic_algorithms_are_set(machine):
    machine("cpu")
    torch.use_deterministic_algorithms(False)
    other = 1 if torch.get_num_threads() > 1 else 2
    set_up_torch("cpu", other)
    assert torch.get_num_threads() == other
    assert torch.are_deterministic_algorithms_enabled()


def test_without_a_number_torch_takes_no_more_threads_than_the_limit_and_the_processors_allow(
    machine, monkeypatch
):
    machine("cpu")
    torch.set_num_threads(3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device_module, "processors", lambda: 2)
    set_up_torch("cpu", None)
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    set_up_torch("cpu", None)
    assert torch.get_num_threads() == 4


def test_each_process_takes_a_gpu_of_its_own_and_more_processes_than_gpus_are_refused(
    machine, monkeypatch
):
    machine("cpu", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert set_up_torch("auto", None, Ranks(1, 2, 1, 2)) == torch.device("cuda", 1)
    assert taken == [1]
    with pytest.raises(
        UserError, match=r"^3 processes want a GPU each, .+ has 2; set runtime\.processes to that$"
    ):
        set_up_torch("auto", None, Ranks(0, 3, 0, 3))


@pytest.mark.parametrize(
    ("precision", "device", "hardware", "found"),
    [
        ("float32", "cuda", {"capability": (9, 0)}, "float32"),
        ("bfloat16", "cpu", {}, "bfloat16"),
        ("auto", "cpu", {}, "float32"),
        ("auto", "cpu", {"cpu_bfloat16": True}, "bfloat16"),
        ("auto", "cuda", {"capability": (7, 5)}, "float32"),
        ("auto", "cuda", {"capability": (8, 0)}, "bfloat16"),
        ("auto", "mps", {}, "float32"),
    ],
)
def test_precision_is_what_is_asked_for_or_what_the_hardware_is_fast_at(
    machine, precision, device, hardware, found
):
    machine("cpu", device, **hardware)
    assert resolve_precision(precision, torch.device(device)) == getattr(torch, found)


def test_a_gpu_computes_a_batch_at_once_unless_a_number_of_shards_is_asked_for():
    for device, shards in (("cpu", 4), ("auto", 4), ("cuda", 1), ("mps", 1)):
        assert resolve_shards("auto", device) == shards
        assert resolve_shards(6, device) == 6


def test_auto_precision_of_this_machine_is_known():
    assert resolve_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("running", "given", "policy"),
    [
        ([True, True, True], None, "PASSIVE"),
        ([True, False], None, None),  # a process that has ended meanwhile
        ([False], None, None),
        ([True, True, True], "ACTIVE", "ACTIVE"),  # the user's own word
    ],
)
def test_waiting_threads_sleep_where_other_processes_keep_running(
    monkeypatch, running, given, policy
):
    samples = iter(running)
    monkeypatch.setattr(device_module, "_others_are_running", lambda: next(samples))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    device_module.choose_wait_policy()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
