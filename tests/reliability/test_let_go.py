"""What is done to an output while the run goes on, or its records are made, is not lost from sight."""

import time

import pytest


def _in_the_run(world):
    """The first corrected file is there, and the run has not finished."""
    return any((world.out / "tiles").glob("jw*.fits")) and (world.out / "unfinished.json").exists()


def _after_its_last_file(world):
    """The output is finished, and the command goes on."""
    return (world.out / "run.json").exists() and not (world.out / "unfinished.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [_in_the_run, _after_its_last_file], ids=["in the run", "after its last file"])
def test_a_corrected_file_edited_before_the_command_ends(reliability, undisturbed, tmp_path, moment):
    world = undisturbed.fresh(tmp_path / "world")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for path in sorted(undisturbed.world.inputs.glob("*.fits")):
        (inputs / path.name).write_bytes(path.read_bytes())
    world.inputs = inputs
    time.sleep(2.5)  # inputs that were written a moment before leave no note at all
    process = world.start()
    while process.poll() is None and not moment(world):
        time.sleep(0.001)
    assert process.poll() is None, world.said
    tile = min((world.out / "tiles").glob("jw*.fits"))
    whole = tile.read_bytes()
    tile.write_bytes(whole[:-3000] + bytes([whole[-3000] ^ 1]) + whole[-2999:])
    assert process.wait(600) == 0, world.said
    assert moment is not _in_the_run or f"tiles/{tile.name}: changed by somebody while the run went on" in world.said
    assert world.run() == 0, world.said
    assert "was edited since it was written" in world.said
    assert tile.read_bytes() == whole
    assert reliability.digests(world.out)["tiles/" + tile.name] == undisturbed.files["tiles/" + tile.name]
