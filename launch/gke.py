"""`python launch/gke.py --tpu_type=v5litepod-16 --image=... --gin_file=...`: TPUs on Kubernetes.

Writes a JobSet manifest and applies it with kubectl, or with --xpk gives the xpk command that makes
one. GKE tells the pods of each other through TPU_WORKER_HOSTNAMES and MEGASCALE_NUM_SLICES, which
`ofa_jax.runs.hosts` reads. A pod that was stopped ends with status 75, and the JobSet starts
all of them again.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys

import commands
from tpu_types import TpuType, tpu_type

# Seconds between SIGTERM and SIGKILL: enough to save.
_GRACE = 300


def manifest(options: argparse.Namespace, slice_type: TpuType, command: tuple[str, ...]) -> str:
    """The JobSet as YAML.

    Every value is written as JSON, which is YAML: no text can be taken for something else.

    Args:
      options: the launcher's arguments.
      slice_type: of each slice.
      command: what each pod runs.
    """
    annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    labels = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    selector = {
        "cloud.google.com/gke-tpu-accelerator": slice_type.generation.gke,
        "cloud.google.com/gke-tpu-topology": slice_type.topology,
    }
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    chips = {"google.com/tpu": slice_type.chips_per_host}
    container: dict = {
        "name": "train",
        "image": options.image,
        "workingDir": options.workdir,
        "command": list(command),
        "env": [{"name": "JAX_PLATFORMS", "value": "tpu,cpu"}],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}, {"containerPort": 8476}],
        "resources": {"requests": chips, "limits": chips},
        # Input workers hand batches over in shared memory, of which a container has 64 MB.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    pod: dict = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        # One pod per host: slices talk at the speed of the host's own network.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    pod_annotations: dict = {}
    if options.bucket:
        pod_annotations["gke-gcsfuse/volumes"] = "true"
        mount = {"name": "bucket", "mountPath": f"/mnt/{options.bucket}"}
        container["volumeMounts"].append(mount)
        driver = {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": options.bucket, "mountOptions": "implicit-dirs"},
        }
        pod["volumes"].append({"name": "bucket", "csi": driver})
    template: dict = {"spec": pod}
    if pod_annotations:
        template = {"metadata": {"annotations": pod_annotations}, "spec": pod}
    # A mistake in the settings is not tried again.
    final = {
        "rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
        ]
    }
    job = {
        "parallelism": slice_type.hosts,
        "completions": slice_type.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": final,
        "template": template,
    }
    failure = {
        "maxRestarts": options.max_restarts,
        "rules": [
            {
                "name": "settings",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    metadata: dict = {"name": options.name, "namespace": options.namespace}
    metadata |= {"labels": labels} if labels else {}
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {**metadata, "annotations": annotations},
        "spec": {
            "failurePolicy": failure,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [
                {"name": "slice", "replicas": options.num_slices, "template": {"spec": job}}
            ],
        },
    }
    return "\n".join(_yaml(jobset)) + "\n"


def _yaml(value: object, indent: str = "") -> list[str]:
    """Block YAML of dictionaries and lists; everything else as JSON."""
    lines = []
    if isinstance(value, dict):
        for key, inner in value.items():
            name = key if re.fullmatch(r"[A-Za-z][\w./-]*", key) else json.dumps(key)
            if isinstance(inner, (dict, list)) and inner:
                lines += [f"{indent}{name}:", *_yaml(inner, indent + "  ")]
            else:
                lines.append(f"{indent}{name}: {json.dumps(inner)}")
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (dict, list)):
                first, *rest = _yaml(inner, indent + "  ")
                lines += [f"{indent}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{indent}- {json.dumps(inner)}")
    return lines


def xpk_command(
    options: argparse.Namespace, slice_type: TpuType, command: tuple[str, ...]
) -> commands.Command:
    """The xpk command that makes the same job.

    Args:
      options: the launcher's arguments.
      slice_type: of each slice.
      command: what each pod runs.
    """
    words = [
        "xpk",
        "workload",
        "create",
        f"--cluster={options.cluster}",
        f"--workload={options.name}",
        f"--tpu-type={slice_type.name}",
        f"--num-slices={options.num_slices}",
        f"--docker-image={options.image}",
        f"--max-restarts={options.max_restarts}",
        f"--restart-on-exit-codes={commands.AGAIN}",
        f"--termination-grace-period-seconds={_GRACE}",
        f"--priority={options.priority}",
        "--env=JAX_PLATFORMS=tpu,cpu",
        f"--command=cd {shlex.quote(options.workdir)} && {shlex.join(command)}",
    ]
    words += [f"--zone={options.zone}"] if options.zone else []
    words += [f"--project={options.project}"] if options.project else []
    return commands.Command(tuple(words))


def launch(own: list[str], gin: list[str]) -> int:
    """Submits or prints the job."""
    parser = commands.parser("gke", "Trains on TPUs of a GKE cluster, by a JobSet or by xpk.")
    parser.add_argument("--tpu_type", required=True, help="for example v5litepod-256, v5p-128")
    parser.add_argument("--num_slices", type=int, default=1)
    parser.add_argument("--image", required=True, help="container of launch/Dockerfile")
    parser.add_argument("--workdir", default="/ofa_jax", help="the checkout in the container")
    parser.add_argument("--python", default="python", help="interpreter in the container")
    parser.add_argument("--max_restarts", type=int, default=50)
    manifests = parser.add_argument_group("JobSet")
    manifests.add_argument("--namespace", default="default")
    manifests.add_argument("--queue", default="", help="LocalQueue of Kueue")
    manifests.add_argument("--service_account", default="", help="of Kubernetes, for the bucket")
    manifests.add_argument("--bucket", default="", help="mounted at /mnt/BUCKET")
    manifests.add_argument("--spot", action="store_true", help="nodes that may be taken away")
    xpk = parser.add_argument_group("xpk")
    xpk.add_argument("--xpk", action="store_true", help="use xpk instead of kubectl")
    xpk.add_argument("--cluster", default="")
    xpk.add_argument("--zone", default="")
    xpk.add_argument("--project", default="")
    xpk.add_argument("--priority", default="medium")
    options = parser.parse_args(own)
    slice_type = tpu_type(options.tpu_type)
    commands.check_name(options.name)
    commands.check_bucket(options.bucket)
    commands.check_positive(options, "num_slices")
    commands.check_positive(options, "max_restarts", least=0)
    commands.check_gin(
        gin, slice_type.chips * options.num_slices, engine=options.engine, shared_directory=True
    )
    words = commands.training_words(gin, options.python, options.engine)
    command = commands.restarted_words(words, 0, options.python)
    if options.xpk:
        if not options.cluster:
            raise commands.LaunchError("--xpk needs --cluster")
        if options.bucket or options.queue or options.spot or options.service_account:
            raise commands.LaunchError(
                "with --xpk the cluster decides on buckets (xpk storage attach), queue, spot and "
                "service account: leave out --bucket, --queue, --spot, --service_account"
            )
        steps: list[commands.Step] = [xpk_command(options, slice_type, command)]
        program, advice = "xpk", "pip install xpk"
    else:
        path = commands.SCRIPTS / f"{options.name}.yaml"
        steps = [
            commands.File(path, manifest(options, slice_type, command)),
            # What is left of an earlier start, finished or not, would stand in the way.
            commands.Command(("kubectl", "delete", f"--filename={path}", "--ignore-not-found")),
            commands.Command(("kubectl", "apply", f"--filename={path}")),
        ]
        program, advice = "kubectl", "gcloud components install kubectl"
    if not options.dry_run:
        commands.require(program, advice)
    return commands.carry_out(steps, dry_run=options.dry_run)


if __name__ == "__main__":
    sys.exit(commands.main(launch))
