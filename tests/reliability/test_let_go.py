"""What is done to an output in the seconds between its last file and the end of the command is not lost from sight."""

import time

import pytest


@pytest.mark.slow
def test_a_corrected_file_edited_while_the_records_are_made(reliability, undisturbed, tmp_path):
    world = undisturbed.fresh(tmp_path / "world")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for path in sorted(undisturbed.world.inputs.glob("*.fits")):
        (inputs / path.name).write_bytes(path.read_bytes())
    world.inputs = inputs
    time.sleep(2.5)  # inputs that were written a moment before leave no note at all
    process = world.start()
    while process.poll() is None and not (
        (world.out / "run.json").exists() and not (world.out / "unfinished.json").exists()
    ):
        time.sleep(0.005)
    assert process.poll() is None, world.said
    tile = min((world.out / "tiles").glob("*.fits"))
    whole = tile.read_bytes()
    tile.write_bytes(whole[:-3000] + bytes([whole[-3000] ^ 1]) + whole[-2999:])
    assert process.wait(600) == 0, world.said
    assert world.run() == 0, world.said
    assert "was edited since it was written" in world.said
    assert tile.read_bytes() == whole
    assert reliability.digests(world.out)["tiles/" + tile.name] == undisturbed.files["tiles/" + tile.name]
