"""The shortest life of each feature, on nodes that are kubelets' and with the product as Helm installs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Product
from guests import Guests
from publisher import publishing
from stories import diskimages, flists, imagemodes, laptop, names, publicaddress, quotas, runpolicies, virtualmachine

#: Of what images may be, one that is run in each way, and from each place.
MODES = ("archive", "with-data", "flist", "kernel", "disk")
pytestmark = pytest.mark.usefixtures("booting")


@pytest.fixture(scope="module")
def booting(product: Product) -> Iterator[Guests]:
    """A virtual machine, which takes longest: it boots while the others wait for something."""
    virtualmachine.push_image(product)
    product.kubectl("create", "namespace", "t-booting")
    yield virtualmachine.begins(product, "t-booting")
    product.kubectl("delete", "namespace", "t-booting", "--wait=false")


def test_machines_and_a_laptop_reach_each_other(product: Product, namespace: str) -> None:
    laptop.reach_each_other(product, namespace, laptop.machines(product, namespace, "n1", "n2"))


def test_machines_find_each_other_by_name(product: Product, namespace: str) -> None:
    named = names.find_each_other(names.network(product, namespace, "n1", "n2"))
    names.is_killed_and_back(named)
    names.what_is_gone_has_no_name(named)


def test_the_world_reaches_a_machine_and_it_reaches_the_world(product: Product, namespace: str, tmp_path: Path) -> None:
    place = publicaddress.Place(product, namespace, publicaddress.forge(tmp_path))
    publicaddress.reaches_the_world_and_is_reached(place)


def test_a_disk_begins_as_an_image_and_is_booted_from(product: Product, namespace: str) -> None:
    diskimages.begins_as_an_image_and_is_booted_from(product, namespace)


def test_a_machine_runs_before_its_image_is_here(product: Product, namespace: str, tmp_path: Path) -> None:
    with publishing(product, tmp_path, "n1", flists.SPEED) as publisher:
        slow = flists.Slow(publisher, tmp_path / "tree")
        guests = flists.runs_before_its_image_is_here(product, namespace, slow)
        flists.what_it_read_is_what_was_published(guests, slow)


@pytest.mark.timeout(400)
def test_what_is_in_an_image_decides_how_its_machine_runs(product: Product, namespace: str, tmp_path: Path) -> None:
    with imagemodes.cases(product, namespace, tmp_path) as cases:
        imagemodes.run_as_what_they_are(product, namespace, {name: cases[name] for name in MODES})


def test_quotas_are_kept_and_processors_promised(product: Product, namespace: str) -> None:
    quotas.are_kept_and_processors_promised(product, namespace)


def test_programs_end_and_begin_again(product: Product, namespace: str) -> None:
    guests = Guests(product, namespace)
    guests.network()
    runpolicies.end_and_begin_again(guests)


@pytest.mark.timeout(2 * virtualmachine.LONG)
def test_a_virtual_machine_boots(booting: Guests) -> None:
    virtualmachine.boots(booting)
