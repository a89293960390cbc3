import pickle

from biofuse.core.errors import DiskError


def test_an_error_keeps_its_remedy_on_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(DiskError("full", remedy="free some")))  # noqa: S301
    assert (type(error), error.message, error.remedy) == (DiskError, "full", "free some")
    assert str(error) == "full\nfree some"
