"""What the launchers write, read by the tools that it is for. Each skips where its tool is not.

- gcloud: reads a command line before it asks who runs it, so it needs no account;
- xpk: `pip install xpk`, its own --dry-run;
- sbatch: Debian's slurm-client. Without a cluster it reads the script, then finds no controller;
- JobSet: `JOBSET_CRD` names the file of the CRD of a JobSet release.

`GCLOUD_PROGRAM`, `XPK_PROGRAM` and `SBATCH_PROGRAM` name programs that are not on the PATH,
`SLURM_PLUGINS` the directory of SLURM's plugins where it is not the usual one.
"""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.launch.launcher import PLAIN, dry_run, files_of, line_with

pytestmark = pytest.mark.slow

SLURM_CONF = """\
ClusterName=check
SlurmctldHost=localhost
AuthType=auth/none
GresTypes=gpu
NodeName=n[1-4] CPUs=64 Gres=gpu:8
PartitionName=gpu Nodes=ALL Default=YES
"""


def tool(name):
    """Path of a program, or of the one that <NAME>_PROGRAM names."""
    found = os.environ.get(f"{name.upper()}_PROGRAM") or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not on the PATH")
    return found


def run(words, **environment):
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


TPU_KINDS = {
    "queued": ("--tpu_type=v5litepod-16", "--spot", "--network=n", "--service_account=s"),
    "slices": ("--tpu_type=v5litepod-16", "--num_slices=2", "--reserved", "--gin.BATCH_SIZE=96"),
    "direct": ("--tpu_type=v6e-8", "--direct", "--reserved", "--network=n"),
}


@pytest.mark.parametrize("kind", TPU_KINDS)
def test_gcloud_knows_every_option(kind, tmp_path):
    program = tool("gcloud")
    text = dry_run("tpu", "--zone=us-west4-a", "--project=p", *TPU_KINDS[kind], *PLAIN)
    lines = [line for line in text.splitlines() if line.startswith("gcloud ")]
    settings = {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    for line in lines:
        words = shlex.split(line)
        done = run([program, *words[1:]], **settings)
        assert "unrecognized arguments" not in done.stderr, line
        assert "do not currently have an active account" in done.stderr, f"{line}: {done.stderr}"
    (create,) = [line for line in lines if " create " in line]
    wrong = run([program, *shlex.split(create)[1:], "--no-such-option=1"], **settings)
    assert "unrecognized arguments: --no-such-option=1" in wrong.stderr


def test_xpk_makes_a_manifest_of_its_own(tmp_path):
    program = tool("xpk")
    text = dry_run(
        "gke", "--xpk", "--cluster=c", "--zone=us-west4-a", "--project=p",
        "--tpu_type=v5litepod-16", "--image=i:1", *PLAIN,
    )  # fmt: skip
    words = [program, *shlex.split(text)[1:], "--dry-run"]
    done = run(words, HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    content = done.stdout.partition("content: \n")[2]
    manifest = yaml.safe_load(content.partition("[XPK]")[0])
    (theirs,) = manifest["spec"]["replicatedJobs"]
    pod = theirs["template"]["spec"]["template"]["spec"]
    # What ours has in common with theirs.
    ours = yaml.safe_load(jobset("--tpu_type=v5litepod-16"))
    (own,) = ours["spec"]["replicatedJobs"]
    mine = own["template"]["spec"]["template"]["spec"]
    for key in ("nodeSelector", "hostNetwork", "dnsPolicy", "restartPolicy", "tolerations"):
        assert mine[key] == pod[key], key
    assert mine["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    for one in (pod, mine):
        mounts = {
            mount["mountPath"]: mount["name"] for mount in one["containers"][0]["volumeMounts"]
        }
        volumes = {volume["name"]: volume for volume in one["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
    for key in ("parallelism", "completions", "backoffLimit"):
        assert own["template"]["spec"][key] == theirs["template"]["spec"][key]
    assert ours["metadata"]["annotations"] == manifest["metadata"]["annotations"]
    codes = theirs["template"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["operator"] == "NotIn"
    assert {75, 2} & set(codes["values"]) == {75}


@pytest.mark.parametrize("wrong", ["", "--sbatch=--no-such-option", "--sbatch=--signal=X@y"])
def test_sbatch_reads_the_script(wrong, tmp_path):
    program = tool("sbatch")
    text = dry_run("slurm", "--nodes=2", "--partition=gpu", *([wrong] if wrong else []), *PLAIN)
    (content,) = files_of(text).values()
    script, conf = tmp_path / "job.sbatch", tmp_path / "slurm.conf"
    script.write_text(content)
    plugins = os.environ.get("SLURM_PLUGINS", "")
    conf.write_text(SLURM_CONF + (f"PluginDir={plugins}\n" if plugins else ""))
    done = run([program, "--test-only", str(script)], SLURM_CONF=str(conf))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    if wrong:
        assert "unrecognized option" in said or "Invalid --signal" in said, said
    else:
        assert "Unable to contact slurm controller" in said, said
    assert run(["bash", "-n", str(script)]).returncode == 0


def jobset(*arguments):
    text = dry_run("gke", "--image=registry/ofa:1", *arguments, *PLAIN)
    (content,) = files_of(text).values()
    assert line_with(text, "kubectl apply")
    return content


def misfits(value, schema, path="jobset"):
    """What a structural schema of Kubernetes does not allow, unknown fields included."""
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{path}: {value!r}"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{path}: {value!r} is no {schema['type']}"]
    found = []
    if allowed := schema.get("enum"):
        found += [] if value in allowed else [f"{path}: {value!r} is none of {allowed}"]
    if isinstance(value, list):
        for number, inner in enumerate(value):
            found += misfits(inner, schema["items"], f"{path}[{number}]")
    if isinstance(value, dict):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        found += [
            f"{path}: no {name!r}" for name in schema.get("required", ()) if name not in value
        ]
        for key, inner in value.items():
            if known and key in known:
                found += misfits(inner, known[key], f"{path}.{key}")
            elif others:
                found += misfits(inner, others, f"{path}.{key}")
            elif known:
                found.append(f"{path}: unknown {key!r}")
    return found


@pytest.mark.parametrize(
    "arguments",
    [("--bucket=b", "--queue=q", "--spot", "--num_slices=2", "--service_account=s"), ()],
    ids=["everything", "least"],
)
def test_the_manifest_fits_the_schema_of_jobset(arguments):
    path = os.environ.get("JOBSET_CRD")
    if not path:
        pytest.skip("JOBSET_CRD names no file; take the CRD of a release of JobSet")
    crd = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    (version,) = [one for one in crd["spec"]["versions"] if one["name"] == "v1alpha2"]
    schema = version["schema"]["openAPIV3Schema"]
    manifest = yaml.safe_load(jobset("--tpu_type=v5litepod-16", *arguments))
    assert misfits(manifest, schema) == []
    manifest["spec"]["replicatedJobs"][0]["replica"] = 1
    assert len(misfits(manifest, schema)) == 1
