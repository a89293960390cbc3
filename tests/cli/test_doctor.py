import json

import pytest

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_doctor_says_what_runs(succeeds):
    said = succeeds("encoders", "doctor", "efficientnet_lite0", "hog").out
    lines = {line.split()[0]: line for line in said.splitlines() if line.split()}
    assert lines["efficientnet_lite0"].split()[1] == "yes"
    assert "in a package" in lines["efficientnet_lite0"]
    assert "none needed" in lines["hog"]


def test_doctor_json_is_every_diagnosis(succeeds):
    found = json.loads(succeeds("encoders", "doctor", "hog", "lbp", "--json", "--device", "cpu").out)
    assert found["device"] == "cpu"
    assert found["hub"]["reachable"] is None
    assert [each["name"] for each in found["encoders"]] == ["hog", "lbp"]
    assert all(each["runs"] and each["loads"] and each["images_per_second"] > 0 for each in found["encoders"])


def test_what_was_asked_for_and_cannot_run_is_exit_code_1(biofuse, hub):
    hub.add("microsoft/rad-dino", {}, gated=True)
    ran = biofuse("encoders", "doctor", "hog", "rad_dino")
    assert ran.code == 1
    assert "hf auth login" in ran.out
    assert "Traceback" not in ran.everything
    found = json.loads(biofuse("encoders", "doctor", "rad_dino", "--json").out)
    assert found["hub"] == {"endpoint": hub.endpoint, "offline": False, "reachable": True}
    assert found["encoders"][0]["access"] == "denied"


def test_what_was_asked_for_and_is_out_of_reach_says_what_to_do(biofuse):
    ran = biofuse("encoders", "doctor", "uni")
    assert ran.code == 1
    assert "HF_HUB_OFFLINE" in ran.out
    assert "BIOFUSE_WEIGHTS_DIR" in ran.out


def test_the_whole_pool_without_a_network_is_a_survey_and_no_failure(succeeds):
    ran = succeeds("encoders", "doctor")
    assert "HF_HUB_OFFLINE is set" in ran.err
    assert any(line.split()[:2] == ["hog", "not"] for line in ran.out.splitlines())
    assert "images/s" in ran.out


def test_doctor_keeps_names_whole_on_a_narrow_terminal(succeeds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = succeeds("encoders", "doctor", "--no-load", "starter").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["efficientnet_lite2"] for line in lines)


def test_a_weights_folder_that_is_not_there_is_one_message(fails, tmp_path):
    assert "does not exist" in fails("encoders", "doctor", "hog", "--weights-dir", tmp_path / "nowhere").err
