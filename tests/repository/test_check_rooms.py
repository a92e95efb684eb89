"""The map of the rooms in CONTRIBUTING.md is the one that the import contracts hold."""

from __future__ import annotations

from tools import check_rooms


def test_the_map_in_contributing_has_every_room_of_the_contracts_from_the_top_floor_to_the_lowest():
    mapped = check_rooms.rooms_in_map()
    floors = check_rooms.floors()
    assert floors[0] == ["__main__"]
    assert floors[-1] == ["errors"]
    assert (
        sorted(mapped) == sorted(room for floor in floors for room in floor) == sorted(check_rooms.rooms_in_package())
    )
    floor_of = {room: number for number, floor in enumerate(floors) for room in floor}
    assert [floor_of[room] for room in mapped] == sorted(floor_of.values())


def test_a_room_that_the_map_lacks_and_a_second_module_of_one_name_are_told(tmp_path, monkeypatch):
    package = tmp_path / "vbatch_jupyter"
    for room, module in (("store", "lines"), ("protocol", "lines"), ("attic", "old")):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
        (package / room / f"{module}.py").write_text("pass\n" * (check_rooms.MOST_LINES + (room == "attic")))
    monkeypatch.setattr(check_rooms, "PACKAGE", package)
    monkeypatch.setattr(check_rooms, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["(store)", "protocol", "(gone)"]\n'
    )
    (tmp_path / "CONTRIBUTING.md").write_text(
        "\n## Rooms\n\n    protocol/  shapes\n    store/  truth\n\n## The panel\n"
    )
    both = ("vbatch_jupyter/protocol/lines.py", "vbatch_jupyter/store/lines.py")
    assert list(check_rooms.problems()) == [
        "pyproject.toml gives no floor to attic.",
        "pyproject.toml gives a floor to gone, and the package has no such room.",
        "The map in CONTRIBUTING.md and the floors in pyproject.toml differ: {'gone'}.",
        "vbatch_jupyter/attic/old.py has 421 lines; split it into two nouns of at most 420.",
        f"Two modules have the name lines.py: {', '.join(both)}. Rename one.",
    ]
