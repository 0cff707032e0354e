from medkd.seeding import derive_seed


def test_every_place_has_a_seed_of_its_own():
    places = [("patch", n) for n in range(1000)] + [("augment", n) for n in range(1000)]
    assert len({derive_seed(0, *place) for place in places}) == len(places)


def test_it_is_known_beforehand_and_fits_every_generator():
    # the same in every process, version and order of calls: a resumed run depends on it
    assert derive_seed(0, "patch", 7) == derive_seed(0, "patch", 7) == 929987319
    assert all(0 <= derive_seed(seed, "a") < 2**31 for seed in range(1000))
