"""What the launchers print is exactly this; what cannot work is one line."""

import shlex
import subprocess

import pytest

from ofa_jax.runs.hosts import host_settings
from tests.launch.launcher import GIN, PLAIN, dry_run, files_of, gin_of, launch, line_with

TRAIN = (
    "-m ofa_jax.train --gin_file=gin_configs/runs/quickstart.gin "
    "'--gin.MODEL_DIR='\"'\"'/mnt/b/runs/a'\"'\"''"
)

LOCAL = f"""\
env COORDINATOR_ADDRESS=localhost:9911 NUM_PROCESSES=2 PROCESS_ID=0 JAX_PLATFORMS=cpu \
XLA_FLAGS=--xla_force_host_platform_device_count=4 .venv/bin/python {TRAIN} &
env COORDINATOR_ADDRESS=localhost:9911 NUM_PROCESSES=2 PROCESS_ID=1 JAX_PLATFORMS=cpu \
XLA_FLAGS=--xla_force_host_platform_device_count=4 .venv/bin/python {TRAIN} &
wait
"""

SBATCH = f"""\
#!/bin/bash
#SBATCH --job-name=ofa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=runs/launch/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --partition=gpu
#SBATCH --exclusive
set -u
cd /shared/ofa_jax
export JAX_PLATFORMS=cuda

srun --cpus-per-task=8 --kill-on-bad-exit=0 --wait=600 \\
  .venv/bin/python launch/restart.py --max_restarts=0 -- .venv/bin/python {TRAIN} &
step=$!
trap : TERM
status=0
while true; do
  wait $step
  status=$?
  kill -0 $step 2>/dev/null || break
done

restarts=${{SLURM_RESTART_COUNT:-0}}
if [ $status -ne 0 ] && [ $status -ne 2 ] && [ "$restarts" -lt 50 ]; then
  echo "exit status $status; back into the queue (restart $((restarts + 1)) of 50)"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
"""

SINGLE_SLICE = f"""\
#!/bin/bash
set -eu
cd ~/ofa_jax
metadata() {{ curl -sf -H "Metadata-Flavor: Google" \
http://metadata.google.internal/computeMetadata/v1/instance/attributes/"$1"; }}
worker=$(metadata agent-worker-number)
export PROCESS_ID=$worker
first=$(metadata worker-network-endpoints | cut -d, -f1)
export COORDINATOR_ADDRESS="${{first##*:}}:8476"
export NUM_PROCESSES=4
export JAX_PLATFORMS=tpu,cpu
exec flock ~/ofa_jax.lock .venv/bin/python launch/restart.py --max_restarts=20 -- \
.venv/bin/python {TRAIN}
"""

TPU_COMMANDS = """\
git archive --format=tar.gz --output=runs/launch/ofa/ofa_jax.tar.gz HEAD
gcloud compute tpus queued-resources create ofa --node-id=ofa --accelerator-type=v5litepod-16 \
--runtime-version=v2-alpha-tpuv5-lite --spot --zone=us-west4-a --project=p
gcloud compute tpus queued-resources describe ofa --format=json --zone=us-west4-a --project=p
gcloud compute tpus tpu-vm scp runs/launch/ofa/ofa_jax.tar.gz runs/launch/ofa/setup.sh \
runs/launch/ofa/train.sh ofa: --worker=all --zone=us-west4-a --project=p
gcloud compute tpus tpu-vm ssh ofa --worker=all '--command=bash ~/setup.sh' --zone=us-west4-a \
--project=p
gcloud compute tpus tpu-vm ssh ofa --worker=all '--command=bash ~/train.sh' --zone=us-west4-a \
--project=p
gcloud compute tpus queued-resources delete ofa --force --quiet --zone=us-west4-a --project=p
"""

JOBSET = """\
apiVersion: "jobset.x-k8s.io/v1alpha2"
kind: "JobSet"
metadata:
  name: "ofa"
  namespace: "default"
  labels:
    kueue.x-k8s.io/queue-name: "tpus"
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: "cloud.google.com/gke-nodepool"
spec:
  failurePolicy:
    maxRestarts: 50
    rules:
      - name: "settings"
        action: "FailJobSet"
        onJobFailureReasons:
          - "PodFailurePolicy"
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
  replicatedJobs:
    - name: "slice"
      replicas: 2
      template:
        spec:
          parallelism: 4
          completions: 4
          completionMode: "Indexed"
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: "FailJob"
                onExitCodes:
                  operator: "In"
                  values:
                    - 2
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: "Never"
              terminationGracePeriodSeconds: 300
              hostNetwork: true
              dnsPolicy: "ClusterFirstWithHostNet"
              tolerations:
                - key: "google.com/tpu"
                  operator: "Exists"
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: "tpu-v6e-slice"
                cloud.google.com/gke-tpu-topology: "4x4"
              containers:
                - name: "train"
                  image: "registry/ofa:1"
                  workingDir: "/ofa_jax"
                  command:
                    - "python"
                    - "launch/restart.py"
                    - "--max_restarts=0"
                    - "--"
                    - "python"
                    - "-m"
                    - "ofa_jax.train"
                    - "--gin_file=gin_configs/runs/quickstart.gin"
                    - "--gin.MODEL_DIR='/mnt/b/runs/a'"
                  env:
                    - name: "JAX_PLATFORMS"
                      value: "tpu,cpu"
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                    - containerPort: 8476
                  resources:
                    requests:
                      google.com/tpu: 4
                    limits:
                      google.com/tpu: 4
                  volumeMounts:
                    - name: "shared-memory"
                      mountPath: "/dev/shm"
                    - name: "bucket"
                      mountPath: "/mnt/b"
              volumes:
                - name: "shared-memory"
                  emptyDir:
                    medium: "Memory"
                - name: "bucket"
                  csi:
                    driver: "gcsfuse.csi.storage.gke.io"
                    volumeAttributes:
                      bucketName: "b"
                      mountOptions: "implicit-dirs"
"""

XPK = (
    "xpk workload create --cluster=c --workload=ofa --tpu-type=v5p-16 --num-slices=1 "
    "--docker-image=i --max-restarts=50 --restart-on-exit-codes=75 "
    "--termination-grace-period-seconds=300 --priority=medium --env=JAX_PLATFORMS=tpu,cpu "
)
TPU = ("--tpu_type=v5litepod-16", "--zone=us-west4-a")


def test_local():
    assert dry_run("local", "--port=9911", *PLAIN) == LOCAL
    for line in LOCAL.splitlines()[:2]:
        words = shlex.split(line.removesuffix(" &"))
        environment = dict(word.split("=", 1) for word in words[1:6])
        found = host_settings(environment)
        assert found.source == "plain variables"
        assert found.arguments["num_processes"] == 2


def test_gpu_node():
    one = dry_run("gpu_node", "--devices=2,3", *PLAIN)
    assert one == f"env CUDA_VISIBLE_DEVICES=2,3 JAX_PLATFORMS=cuda .venv/bin/python {TRAIN}\n"
    text = dry_run("gpu_node", "--gpus=4", "--process_per_gpu", "--port=9911", *PLAIN)
    assert text.splitlines()[-1] == "wait"
    environment = dict(word.split("=", 1) for word in shlex.split(text.splitlines()[3])[1:7])
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert host_settings(environment).arguments == {
        "coordinator_address": "localhost:9911",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
        "local_device_ids": [3],
    }


def test_slurm():
    text = dry_run(
        "slurm", "--nodes=2", "--gpus_per_node=4", "--time=12:00:00", "--partition=gpu",
        "--sbatch=--exclusive", "--checkout=/shared/ofa_jax", *PLAIN,
    )  # fmt: skip
    assert files_of(text) == {"runs/launch/ofa.sbatch": SBATCH}
    assert text.splitlines()[-1] == "sbatch runs/launch/ofa.sbatch"


def test_tpu_queued_resource():
    text = dry_run("tpu", *TPU, "--project=p", "--spot", *PLAIN)
    files = files_of(text)
    assert files["runs/launch/ofa/train.sh"] == SINGLE_SLICE
    assert text.endswith(TPU_COMMANDS)
    assert "gcsfuse" not in files["runs/launch/ofa/setup.sh"]
    mounted = files_of(dry_run("tpu", *TPU, "--bucket=b", *PLAIN))["runs/launch/ofa/setup.sh"]
    assert "mountpoint -q /mnt/b || gcsfuse --implicit-dirs b /mnt/b" in mounted


def test_tpu_of_a_reservation():
    options = ("--reserved", "--network=n", "--service_account=ofa@p.iam.gserviceaccount.com")
    created = line_with(dry_run("tpu", *TPU, *options, *PLAIN), " create ofa")
    asked = "--reserved --network=n --service-account=ofa@p.iam.gserviceaccount.com --zone"
    assert asked in created


def test_tpu_of_several_slices_and_direct():
    text = dry_run("tpu", *TPU, "--num_slices=3", "--keep", *PLAIN, "--gin.BATCH_SIZE=96")
    assert "create ofa --node-count=3 --node-prefix=ofa --accelerator-type=v5litepod-16" in text
    assert all(f"tpu-vm ssh ofa-{index} --worker=all" in text for index in range(3))
    assert "delete" not in text
    script = files_of(text)["runs/launch/ofa/train.sh"]
    assert "export PROCESS_ID=$(( $(of_slice MEGASCALE_SLICE_ID) * 4 + worker ))" in script
    assert "export NUM_PROCESSES=12" in script
    direct = dry_run("tpu", "--tpu_type=v6e-8", "--zone=z", "--direct", *PLAIN)
    assert (
        "gcloud compute tpus tpu-vm create ofa --accelerator-type=v6e-8 "
        "--version=v2-alpha-tpuv6e --zone=z\n" in direct
    )
    # One host has nobody to find.
    assert "COORDINATOR_ADDRESS" not in direct


def test_what_is_printed_ends_where_the_file_ends(tmp_path):
    """A line like the end of a file, in a setting, is part of the file for a shell too."""
    hostile = f"--gin.NOTE='a\nEND_OF_FILE\ntouch {tmp_path / 'ran'}\n'"
    text = dry_run("slurm", "--checkout=/x", PLAIN[0], hostile, PLAIN[1])
    lines = text.splitlines()[:-1]
    assert lines[0] == "cat > runs/launch/ofa.sbatch <<'END_OF_FILE_'"
    lines[0] = lines[0].replace("runs/launch/ofa.sbatch", str(tmp_path / "script"))
    subprocess.run(["bash", "-c", "\n".join(lines)], check=True)
    assert not (tmp_path / "ran").exists()
    assert "END_OF_FILE\n" in (tmp_path / "script").read_text()


@pytest.mark.parametrize("slices", [1, 2])
def test_script_of_a_tpu_host_finds_the_others(tmp_path, slices):
    """Runs it with the metadata that Google's server gives, and what would train replaced."""
    text = dry_run("tpu", *TPU, f"--num_slices={slices}", *PLAIN)
    script = files_of(text)["runs/launch/ofa/train.sh"]
    (tmp_path / "ofa_jax").mkdir()
    programs = {
        "curl": """case "$4" in
*/agent-worker-number) echo 3 ;;
*/worker-network-endpoints) echo "ofa-0:0:10.0.0.2,ofa-1:1:10.0.0.3" ;;
*/tpu-env) printf "ZONE: 'z'\\nMEGASCALE_SLICE_ID: '1'\\nMEGASCALE_COORDINATOR_ADDRESS: """
        """'10.0.0.9:8080'\\n" ;;
esac""",
        "flock": 'echo "$COORDINATOR_ADDRESS $NUM_PROCESSES $PROCESS_ID"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ("10.0.0.2:8476 4 3\n" if slices == 1 else "10.0.0.9:8476 8 7\n")


def test_gke_jobset():
    text = dry_run(
        "gke", "--tpu_type=v6e-16", "--num_slices=2", "--image=registry/ofa:1", "--queue=tpus",
        "--bucket=b", *PLAIN,
    )  # fmt: skip
    assert files_of(text) == {"runs/launch/ofa.yaml": JOBSET}
    assert text.splitlines()[-2:] == [
        "kubectl delete --filename=runs/launch/ofa.yaml --ignore-not-found",
        "kubectl apply --filename=runs/launch/ofa.yaml",
    ]


def test_gke_xpk():
    text = dry_run("gke", "--xpk", "--cluster=c", "--tpu_type=v5p-16", "--image=i", *PLAIN)
    assert text.startswith(XPK)
    (command,) = [w for w in shlex.split(text) if w.startswith("--command=")]
    inner = shlex.split(command.removeprefix("--command="))
    assert inner[:4] == ["cd", "/ofa_jax", "&&", "python"]
    assert tuple(inner[-2:]) == PLAIN


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("local", "--processes=1"), "ofa_jax.train"),
        (("gpu_node",), "ofa_jax.train"),
        (("slurm", "--nodes=2"), "ofa_jax.train"),
        (("tpu", *TPU), "exec flock"),
    ],
)
def test_gin_arguments_arrive_as_they_were_given(arguments, part):
    assert gin_of(line_with(dry_run(*arguments, *GIN), part)) == GIN


def test_gin_arguments_arrive_in_a_manifest():
    import json

    text = dry_run("gke", "--tpu_type=v4-16", "--image=i", *GIN)
    lines = [line.strip() for line in text.splitlines() if '- "--gin' in line]
    assert tuple(json.loads(line.removeprefix("- ")) for line in lines) == GIN
    text = dry_run("gke", "--xpk", "--cluster=c", "--tpu_type=v4-16", "--image=i", *GIN)
    (command,) = [w for w in shlex.split(text) if w.startswith("--command=")]
    assert gin_of(command) == GIN


T5X = ("--gin_file=gin_configs/t5x/quickstart.gin", "--gin.MODEL_DIR='/mnt/b/runs/a'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("local",),
        ("gpu_node",),
        ("slurm",),
        ("tpu", *TPU),
        ("gke", "--tpu_type=v4-16", "--image=i"),
        ("gke", "--xpk", "--cluster=c", "--tpu_type=v4-16", "--image=i"),
    ],
    ids=["local", "gpu_node", "slurm", "tpu", "gke", "gke xpk"],
)
def test_every_launcher_trains_with_either_engine(arguments):
    text = dry_run(*arguments, "--engine=t5x", *T5X)
    assert "t5x.train" in text
    assert "ofa_jax.train" not in text
    for engine, files, message in (
        ("native", T5X, "is a gin file of the engine t5x: give --engine=t5x, or"),
        ("t5x", PLAIN, "the first --gin_file is gin_configs/t5x/train.gin, not gin_configs/"),
    ):
        done = launch(*arguments, "--dry_run", f"--engine={engine}", *files)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_tpu_host_installs_t5x_where_it_trains():
    text = files_of(dry_run("tpu", *TPU, "--engine=t5x", *T5X))["runs/launch/ofa/setup.sh"]
    assert "pip install --quiet --no-deps git+https://github.com/google-research/t5x@" in text
    subprocess.run(["bash", "-n", "-c", text], check=True)
    assert "t5x" not in files_of(dry_run("tpu", *TPU, *PLAIN))["runs/launch/ofa/setup.sh"]


MESH = "--gin.partitioning.Partitioner.mesh='data=16,model=4'"
RULES = "--gin_file=gin_configs/sharding/fsdp_tensor.gin"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpu", "--tpu_type=v5e-16", "--zone=z", *PLAIN), "did you mean v5litepod-16?"),
        (("tpu", "--tpu_type=x9", "--zone=z", *PLAIN), "known are v4-N, v5litepod-N, v5p-N, v6e-N"),
        (("tpu", *TPU, *PLAIN), "gcloud is not on the PATH; install the Google Cloud CLI"),
        (("tpu", *TPU, "--spot", "--reserved", *PLAIN), "either --spot or --reserved"),
        (("tpu", *TPU, "--direct", "--num_slices=2", *PLAIN), "leave out --direct"),
        (("tpu", *TPU, PLAIN[0]), "MODEL_DIR must be a whole path that all hosts see"),
        (("tpu", *TPU, PLAIN[0], "--gin.MODEL_DIR='s3://b/a'"), "s3://b/a is no directory"),
        (("tpu", *TPU, "--name=Ofa_1", *PLAIN), "--name must be lower-case letters"),
        (("slurm", *PLAIN), "sbatch is not on the PATH; run this on a login node"),
        (("slurm", "--time=soon", *PLAIN), "--time must be minutes"),
        (("slurm", "--nodes=0", *PLAIN), "--nodes must be 1 or more, got 0"),
        (("slurm", "--dry_run", "--partition=gpu\nrm -r x", *PLAIN), "has a line break or another"),
        (("slurm", "--dry_run", "--sbatch=--exclusive\rx", *PLAIN), "has a line break or another"),
        (("slurm", "--dry_run", "--partition=gpu --array=1-99", *PLAIN), "--partition must be one"),
        (("slurm", "--dry_run", "--log_dir=a#b", *PLAIN), "--log_dir must be one word"),
        (("tpu", "--dry_run", *TPU, "--bucket=b;reboot", *PLAIN), "--bucket must be the name of a"),
        (("gke", "--dry_run", "--tpu_type=v4-8", "--image=i", "--bucket=gs://b", *PLAIN),
         "--bucket must be the name of a bucket"),
        (("gke", "--tpu_type=v4-8", "--image=i", *PLAIN), "kubectl is not on the PATH"),
        (("gke", "--tpu_type=v4-8", "--image=i", "--xpk", *PLAIN), "--xpk needs --cluster"),
        (("gpu_node", *PLAIN), "nvidia-smi is not on the PATH"),
        (("gpu_node", "--devices=0,0", *PLAIN), "--devices must be different numbers"),
        (("gpu_node", "--gpus=2", "--devices=1", *PLAIN), "--gpus=2, but --devices names 1"),
        (("local",), "give at least one --gin_file"),
        (("local", "--gin_file"), "--gin_file needs a file"),
        (
            ("local", "--engine=t5x", "--gin_file=gin_configs/models/base.gin"),
            "the first --gin_file is gin_configs/t5x/train.gin, not gin_configs/models/base.gin",
        ),
        (("local", "--engine=t5x", T5X[0], "--gin.MODEL_DIR='runs/a'"), "must be a whole path"),
        (("local", "--gin_file=none.gin"), "--gin_file: there is no none.gin"),
        (
            ("slurm", "--dry_run", "--nodes=4", *PLAIN, MESH),
            "mesh data=16,model=4 has 64 devices, but this launch has 32",
        ),
        (
            ("local", "--processes=3", "--devices_per_process=1", *PLAIN, RULES),
            "needs a multiple of 2 devices, but this launch has 3",
        ),
        (
            ("tpu", "--dry_run", *TPU, *PLAIN, "--gin.BATCH_SIZE=100"),
            "BATCH_SIZE 100 does not divide over the 16 parts that the batch is split into on 16 "
            "devices; the nearest is 96 or 112",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
