"""What watches over a training of any framework: limits, pictures left out, stalls, full memory."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch import nn

from convnext_backbones.data.pictures import read_picture
from convnext_backbones.data.skipping import LEAST, Skipped, Skipping
from convnext_backbones.errors import UnreadableFileError, UserError
from convnext_backbones.network.convnext import ConvNeXt
from convnext_backbones.runs.guards import STALLED, Limits, Watch, last_sound, not_finite_in
from convnext_backbones.runs.memory import Options, Picture, Use, out_of_memory


# ---- limits and numbers --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(not_finite=0), "not_finite .* is 0; valid: a whole number from 1"),
        (dict(not_finite=2.5), "a whole number"),
        (dict(skip_share=2), "a share from 0 to 1"),
        (dict(skip_share="some"), "a share from 0 to 1"),
        (dict(stall_timeout=-1), "seconds, or 0"),
        (dict(stall_timeout=float("nan")), "seconds, or 0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        Limits.of(**given)


def test_a_mask_of_minus_infinity_is_no_broken_weight():
    good = {
        "mask": torch.tensor([0.0, -torch.inf]),
        "weight": torch.ones(2),
        "count": torch.tensor(1),
    }
    assert not_finite_in(good) is None
    assert not_finite_in({**good, "a.weight": torch.tensor([1.0, -torch.inf])}) == "a.weight"
    assert not_finite_in({**good, "b.running_var": torch.tensor([torch.nan])}) == "b.running_var"


def test_the_last_sound_checkpoint_is_the_furthest_of_finite_weights(tmp_path):
    weights = {"a": 1.0, "b": 2.0, "c": torch.nan}
    for name in weights:
        (tmp_path / f"{name}.pth").touch()

    def weights_of(file):
        return {"w": torch.tensor(weights[file.stem])}

    assert last_sound(tmp_path, lambda file: ord(file.stem), weights_of).stem == "b"
    assert last_sound(tmp_path / "none", ord, weights_of) is None


# ---- pictures left out ---------------------------------------------------------------------------
class Data:
    """Numbers; those in `bad` cannot be read."""

    def __init__(self, bad, count=20):
        self.bad, self.count = bad, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise UnreadableFileError(f"the picture {index}.jpg is damaged", f"{index}.jpg")
        return index


def test_the_next_picture_takes_the_place_of_one_that_cannot_be_read(tmp_path, caplog):
    read, note = Skipping(tmp_path / "skipped.txt"), tmp_path / "skipped.txt"
    skipped = Skipped(note, 0.01, lambda own: [own])
    data = Data({3, 4, 19})
    assert [read(data, k) for k in (2, 3, 4, 3, 19)] == [2, 5, 5, 5, 0]
    skipped.look(5)
    skipped.look(5)
    assert caplog.text.count("3.jpg is damaged: training goes on") == 1
    assert skipped.summary().startswith("3 pictures left out of the training: the picture 3.jpg")
    later = Skipped(note, 0.01, lambda own: [own])  # of a run that goes on
    later.look(5)
    assert later.summary() == ""


def test_more_than_the_share_stop_the_run_and_are_named(tmp_path):
    read = Skipping(tmp_path / "skipped.txt")
    data = Data(set(range(0, 2 * LEAST, 2)) | {50}, count=2000)
    skipped = Skipped(tmp_path / "skipped.txt", 0.01, lambda own: [own])
    for k in range(2 * LEAST):
        read(data, k)
    skipped.look(10)
    read(data, 50)
    skipped.look(600)  # 1 % of 600
    with pytest.raises(UserError, match=r"6 pictures of at most 500 .*0\.jpg is damaged.*50\.jpg.*--skip-share"):  # fmt: skip
        skipped.look(500)


def test_none_is_left_out_where_none_can_be_read(tmp_path):
    data = Data(set(range(20)))
    with pytest.raises(
        UserError, match=r"6 pictures in a row cannot be read; the first: .* 7\.jpg"
    ):
        Skipping(tmp_path / "skipped.txt")(data, 7)


def test_other_processes_count_too(tmp_path):
    other = [(f"{k}.jpg", f"{k}.jpg is damaged") for k in range(LEAST + 1)]
    skipped = Skipped(tmp_path / "skipped.txt", 0.5, lambda own: [own, other])
    with pytest.raises(UserError, match="6 pictures of at most 8"):
        skipped.look(8)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_picture_that_cannot_be_read_says_which_it_is(tmp_path, content):
    file = tmp_path / "a.jpg"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableFileError) as refused:
        read_picture(file)
    assert refused.value.path == str(file)
    assert str(file) in str(refused.value)


# ---- standing still ------------------------------------------------------------------------------
def run_watched(folder, ranks, timeout, work):
    """Each rank's exit status and what they print; `work(rank, watch)` in a process of its own."""

    def process(rank):
        with open(folder / f"printed{rank}.txt", "w") as printed:
            os.dup2(printed.fileno(), 2)
            watch = Watch(folder, rank, ranks, timeout)
            with watch.watching():
                work(rank, watch)

    context = multiprocessing.get_context("fork")
    running = [context.Process(target=process, args=(rank,)) for rank in range(ranks)]
    for one in running:
        one.start()
    for one in running:
        one.join(30)
    states = [one.exitcode for one in running]
    for one in running:
        one.kill()
    return states, [(folder / f"printed{rank}.txt").read_text() for rank in range(ranks)]


def test_a_run_that_stands_still_ends_with_its_stack(tmp_path):
    def work(rank, watch):
        watch.moves("computes step 3")
        time.sleep(60)

    begun = time.monotonic()
    states, printed = run_watched(tmp_path, 1, 1, work)
    assert states == [1]
    assert time.monotonic() - begun < 15
    assert "process 0 of 1 stands still: it computes step 3 for 1 s" in printed[0]
    assert "in work" in (tmp_path / STALLED.format(0)).read_text()
    assert "--stall-timeout" in printed[0]


def test_a_run_that_moves_is_left_alone_and_leaves_nothing(tmp_path):
    def work(rank, watch):
        for _ in range(8):
            watch.moves("computes")
            time.sleep(0.25)

    states, printed = run_watched(tmp_path, 1, 1, work)
    assert (states, printed) == ([0], [""])
    assert not (tmp_path / STALLED.format(0)).exists()


def in_an_exchange(seconds):
    """As torch.distributed waits: a frame whose file is in it."""
    code = compile("import time\ndef all_reduce(s):\n    end = time.monotonic() + s\n"
                   "    while time.monotonic() < end: pass\n",
                   f"{os.path.dirname(torch.__file__)}/distributed/c10d.py", "exec")  # fmt: skip
    names = {}
    exec(code, names)
    names["all_reduce"](seconds)


def test_the_one_that_does_not_wait_for_another_is_named_first(tmp_path):
    def work(rank, watch):
        watch.moves("computes step 9")
        in_an_exchange(20) if rank == 0 else time.sleep(20)

    states, printed = run_watched(tmp_path, 2, 2, work)
    assert states == [1, 1]
    assert "process 1 of 2 stands still: it computes step 9" in printed[1]
    assert "process 0 of 2 computes step 9 and waits for another" in printed[0]
    assert "in all_reduce" in (tmp_path / STALLED.format(0)).read_text()


def test_one_that_does_not_answer_is_named_by_the_others(tmp_path):
    def work(rank, watch):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        in_an_exchange(20)

    states, printed = run_watched(tmp_path, 2, 1, work)
    assert states == [1, -signal.SIGKILL]
    assert "waits for process 1, which does not answer" in printed[0]


# ---- memory --------------------------------------------------------------------------------------
OPTIONS = Options("batch", "cp=True", "amp=True", "scale", "workers")


def use(**changes):
    model = nn.Sequential(ConvNeXt("atto", with_cp=changes.pop("with_cp", False)))
    pictures = [Picture("a.jpg", 800, 600), Picture("b.jpg", 640, 1333)]
    return Use(**{**dict(step=7, pictures=pictures, model=model, optimizer_copies=2, batch=2,
                         amp=None, workers=4), **changes})  # fmt: skip


def said(error, **changes):
    return str(out_of_memory(error, lambda: use(**changes), OPTIONS))


def test_full_memory_names_batch_size_and_what_saves_most():
    gpu = torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has .."
    )
    words = said(gpu, amp=False)
    assert words.startswith("the GPU's memory is full in step 7 (asked for 2.00 GiB more), with a batch of 2 pictures of up to 800x1333")  # fmt: skip
    assert "cp=True saves about" in words
    assert "which is most; amp=True saves about" in words
    assert "batch=1 for 2 saves about" in words
    assert "pictures of half the area (scale)" in words
    words = said(gpu, with_cp=True, amp=False)
    assert "cp=True" not in words
    assert "amp=True saves about" in words.split("which is most")[0]
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:126] err == 0. DefaultCPUAllocator: can't allocate "
                       "memory: you tried to allocate 1000000000 bytes. Error code 12")  # fmt: skip
    words = said(cpu)
    assert "the machine's memory is full in step 7 (asked for 953.7 MiB more)" in words
    assert "amp=True" not in words  # a CPU has none
    assert "the machine's memory is full" in said(MemoryError())


def test_what_saves_most_is_counted_from_the_network():
    kept = {}
    for arch in ("atto", "tiny"):
        words = said(MemoryError(), model=ConvNeXt(arch))
        kept[arch] = float(words.split("Of the ")[1].split()[0]) * (1024 if "GiB" in words.split("Of the ")[1][:12] else 1)  # fmt: skip
    assert kept["tiny"] > 2 * kept["atto"]
    other = said(MemoryError(), model=nn.Linear(3, 3))
    assert "What saves memory, most first: cp=True" in other


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("is killed by signal: Killed. ", r"killed the data worker 77.*workers=2.*batch=1.*workers=0"),
        ("is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.",
         r"no room in shared memory.*--shm-size"),
        ("is killed by signal: Terminated. ", r"data worker 77 was sent SIGTERM.*says why"),
        ("exited unexpectedly", r"the data worker 77 ended by itself.*workers=0"),
        ("is killed by signal: Segmentation fault. ", r"ended by itself is killed by signal: Segm"),
    ],
)  # fmt: skip
def test_a_data_worker_that_ends_is_told(end, words):
    pid = "(pid 77)" if "signal" in end else "(pid(s) 77)"
    error = RuntimeError(f"DataLoader worker {pid} {end}")
    with pytest.raises(UserError, match=f"(?s){words}"):
        raise out_of_memory(error, use, OPTIONS)


def test_another_error_is_none_of_memory():
    assert out_of_memory(RuntimeError("shapes do not fit"), use, OPTIONS) is None
