"""Artifacts, models and debug images on an S3 server: moto's, on loopback, over real HTTP."""

from __future__ import annotations

import pytest

pytest.importorskip("clearml")
pytest.importorskip("torch")
boto3 = pytest.importorskip("boto3")
pytest.importorskip("flask")
moto_server = pytest.importorskip("moto.server")

KEYS = {"aws_access_key_id": "test-key", "aws_secret_access_key": "test-secret"}

CONFIGURATION = """
sdk.development.report_use_subprocess: false
sdk.aws.s3.credentials: [
  {{ host: "{host}", key: "test-key", secret: "test-secret", secure: false, region: "us-east-1" }}
]
"""


@pytest.fixture
def s3_host():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.mark.slow
def test_what_is_uploaded_goes_to_an_s3_server(clearml_server, run_script, tmp_path, s3_host):
    client = boto3.client("s3", endpoint_url=f"http://{s3_host}", region_name="us-east-1", **KEYS)
    client.create_bucket(Bucket="experiments")
    (tmp_path / "clearml.conf").write_text(CONFIGURATION.format(host=s3_host))
    done = run_script(
        f"""
        import numpy, torch, tracelet
        from clearml import Logger
        from torch.utils.tensorboard import SummaryWriter
        output_uri = "s3://{s3_host}/experiments/runs"
        experiment = tracelet.start_logging("on S3", "tests", config={{"output_uri": output_uri}})
        Logger.current_logger().set_default_upload_destination(output_uri)
        writer = SummaryWriter("log")
        for step in range(3):
            writer.add_image("predictions", numpy.full((3, 8, 8), step / 3, "float32"), step)
            writer.add_scalar("train/loss", step, step)
        open("notes.txt", "w").write("kept on S3")
        experiment.log_artifact("notes.txt")
        torch.save(torch.nn.Linear(2, 1).state_dict(), "net.pt")
        tracelet.stop_logging()
        print(experiment.stats)
        """,
        env={**clearml_server.environment(), "CLEARML_CONFIG_FILE": str(tmp_path / "clearml.conf")},
    )
    (task,) = clearml_server.tasks.values()
    assert task["status"] == "completed", done.stderr
    stored = {
        item["Key"]: client.get_object(Bucket="experiments", Key=item["Key"])["Body"].read()
        for item in client.list_objects_v2(Bucket="experiments").get("Contents", [])
    }

    def content(url):
        prefix = f"s3://{s3_host}/experiments/"
        assert url.startswith(prefix + "runs/tests/on S3."), url
        return stored[url[len(prefix) :]]

    artifacts = {item["key"]: item["uri"] for item in task["execution"]["artifacts"]}
    assert content(artifacts["notes.txt"]) == b"kept on S3"
    (model,) = clearml_server.models.values()
    assert content(model["uri"]) == (tmp_path / "net.pt").read_bytes()
    images = clearml_server.events(task["id"], "training_debug_image")
    assert sorted(image["iter"] for image in images) == [0, 1, 2]
    assert all(content(image["url"]).startswith(b"\x89PNG") for image in images)
    assert len({image["url"] for image in images}) == 3
    assert not clearml_server.files  # nothing went to ClearML's own file server
    assert len(clearml_server.scalars(task["id"])["train", "loss"]) == 3
    assert clearml_server.schema_violations == []
