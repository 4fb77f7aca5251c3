"""What is installed on machines: the unit, its folders and user, the configuration, the Prometheus examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.config.keys import KEYS
from agent.config.load import load
from agent.config.model import AgentConfig, Config
from agent.metrics import Metrics

PACKAGING = Path(__file__).parents[2] / "packaging"
AGENT = os.path.join(os.path.dirname(sys.executable), "gpusnap-agent")
EXPOSURE_LIMIT = 30
"""Of systemd's rating, in tenths: the capabilities to restore files of any owner cost about 25."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the agent where it is here."""
    text = (PACKAGING / "gpusnap-agent.service").read_text()
    written = tmp_path / "gpusnap-agent.service"
    written.write_text(text.replace("/opt/gpusnap/bin/gpusnap-agent", AGENT))
    return written


@needs_systemd
def test_systemd_accepts_the_unit(unit: Path) -> None:
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    about_it = [line for line in verified.stderr.splitlines() if "gpusnap" in line]
    assert about_it == []
    assert verified.returncode == 0, verified.stderr


@needs_systemd
def test_systemd_accepts_the_mount_of_the_staging_folder() -> None:
    mount = PACKAGING / "run-gpusnap-staging.mount"
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", mount], capture_output=True, text=True)
    assert [line for line in verified.stderr.splitlines() if "gpusnap" in line] == []
    assert verified.returncode == 0, verified.stderr


@needs_systemd
def test_systemd_would_complain_about_a_broken_unit(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=some").replace("WatchdogSec", "WatchdogSecs"))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert "kill mode" in verified.stderr
    assert "WatchdogSecs" in verified.stderr


@needs_systemd
def test_the_sandbox_is_tight(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE_LIMIT}", str(unit)]
    rated = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in rated.stderr:
        pytest.skip("this systemd cannot rate a unit that is not loaded")
    assert rated.returncode == 0, rated.stdout + rated.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders to users")
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, PACKAGING / "gpusnap.sysusers"], check=True, capture_output=True)
    assert re.search(r"^gpusnap:[^:]*:(\d+):(\d+):gpusnap agent:", (tmp_path / "etc/passwd").read_text(), re.M)
    uid = int(re.search(r"^gpusnap:[^:]*:(\d+):", (tmp_path / "etc/passwd").read_text(), re.M)[1])  # type: ignore[index]
    subprocess.run(["systemd-tmpfiles", "--create", root, PACKAGING / "gpusnap.tmpfiles"], check=True)
    made = {path: os.stat(tmp_path / path) for path in ("run/gpusnap", "run/gpusnap/staging", "var/lib/gpusnap")}
    assert {status.st_uid for status in made.values()} == {uid}
    assert [status.st_mode & 0o777 for status in made.values()] == [0o750, 0o700, 0o750]
    assert os.stat(tmp_path / "etc/gpusnap").st_uid == 0


def test_the_unit_and_the_configuration_name_the_same_folders() -> None:
    agent = AgentConfig()
    unit = (PACKAGING / "gpusnap-agent.service").read_text()
    assert agent.state_dir == "/var/lib/" + _setting(unit, "StateDirectory")
    assert agent.staging_dir.startswith("/run/" + _setting(unit, "RuntimeDirectory") + "/")
    assert _setting((PACKAGING / "run-gpusnap-staging.mount").read_text(), "Where") == agent.staging_dir
    assert _setting(unit, "ReadWritePaths") == "-" + agent.workspace_roots[0]
    assert agent.drain_seconds < int(_setting(unit, "TimeoutStopSec"))


def test_agent_toml_shows_every_key_with_its_default() -> None:
    path = PACKAGING / "agent.toml"
    loaded = load(str(path), {}, {})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {str(path)}
    assert set(loaded.origins) == set(KEYS)


def test_check_config_reads_agent_toml() -> None:
    command = [AGENT, "check-config", "--config", str(PACKAGING / "agent.toml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    assert 'agent.state_dir = "/var/lib/gpusnap"' in checked.stdout


def test_prometheus_scrapes_where_the_agent_answers() -> None:
    config = yaml.safe_load((PACKAGING / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [AgentConfig().metrics_listen]}]
    for rule_file in config["rule_files"]:
        assert (PACKAGING / rule_file).is_file()


def test_every_metric_is_explained() -> None:
    readme = (PACKAGING / "README.md").read_text()
    named = set(re.findall(r"`(gpusnap_\w+)`", readme[readme.index("| metric |") :]))
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics("0").registry.collect()
        if family.name.startswith("gpusnap_")
    }
    assert named == families


def test_the_alerts_use_metrics_that_exist() -> None:
    rules = yaml.safe_load((PACKAGING / "prometheus-rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    families = {family.name: family.type for family in Metrics("0").registry.collect()}
    samples = set(families) | {f"{name}_total" for name, kind in families.items() if kind == "counter"}
    for name, kind in families.items():
        if kind == "histogram":
            samples |= {f"{name}_sum", f"{name}_count", f"{name}_bucket"}
    used = {name for alert in alerts for name in re.findall(r"gpusnap_\w+", alert["expr"])}
    assert len(alerts) >= 5
    assert used
    assert used <= samples
    for alert in alerts:
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert alert["annotations"]["summary"]
        assert alert["expr"].count("(") == alert["expr"].count(")")


def _setting(unit: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", unit, re.M)
    assert found is not None
    return found[1]
