"""A patch of a framework: applied twice it is applied once, and undone it has never been."""

import pytest

from convnext_backbones.runs.patching import Patches, patched_attribute


def louder(plain):
    return lambda *args: plain(*args).upper()


@pytest.fixture
def classes():
    class Base:
        def inherited(self):
            return "inherited"

    class Host(Base):
        def method(self):
            return "method"

        @staticmethod
        def static(word):
            return word

    return Base, Host


@pytest.mark.parametrize("name", ["method", "static", "inherited"])
def test_what_was_there_comes_back_as_the_very_object(name, classes):
    _, host = classes
    before = dict(vars(host))
    arguments = ["static"] if name == "static" else []
    patch = patched_attribute(host, name, louder)
    assert not patch.applied
    for _ in range(2):
        patch.apply()
        assert patch.applied
        assert getattr(host(), name)(*arguments) == name.upper()
    assert patch.undo()
    assert dict(vars(host)) == before
    assert all(vars(host)[key] is value for key, value in before.items())
    assert patch.undo()  # of nothing
    assert not patch.applied


def test_an_inherited_method_stays_the_base_classes(classes):
    base, host = classes
    with patched_attribute(host, "inherited", louder):
        assert base().inherited() == "inherited"
        base.inherited = lambda self: "another"
    assert host().inherited() == "another"


def test_a_later_replacement_of_somebody_else_stays_and_is_said(classes, caplog):
    _, host = classes
    patch = patched_attribute(host, "method", louder)
    patch.apply()
    ours = host.method
    host.method = lambda self: ours(self) + "!"
    patch.apply()  # ours is below theirs already
    assert host().method() == "METHOD!"
    assert not patch.undo()
    assert host().method() == "METHOD!"
    assert "Host.method was replaced by somebody else after this package" in caplog.text
    host.method = ours
    assert patch.undo()
    assert host().method() == "method"


def test_a_patch_that_somebody_took_away_can_be_applied_again(classes):
    _, host = classes
    plain = host.method
    patch = patched_attribute(host, "method", louder)
    patch.apply()
    host.method = plain
    patch.apply()
    assert host().method() == "METHOD"
    host.method = plain
    assert patch.undo()
    assert host.method is plain


def test_a_patch_is_undone_after_an_error(classes):
    _, host = classes
    plain = host.method
    with pytest.raises(KeyError), patched_attribute(host, "method", louder):
        raise KeyError
    assert host.method is plain


def test_several_patches_are_one(classes):
    _, host = classes
    patches = Patches(patched_attribute(host, name, louder) for name in ("method", "inherited"))
    with patches:
        assert host().method() + host().inherited() == "METHODINHERITED"
    assert host().method() + host().inherited() == "methodinherited"
    patches.apply()
    ours, host.method = host.method, len
    assert not patches.undo()
    assert host().inherited() == "inherited"  # each is tried
    host.method = ours
    assert patches.undo()
