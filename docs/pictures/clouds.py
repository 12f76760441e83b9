#!/usr/bin/env python3
"""Draws aws.svg and azure.svg: what the commands of docs/guides/deploying.md deploy, and who talks to whom.

usage: clouds.py [--check]      --check writes nothing, and fails where a picture is another

Each box names the kinds of Terraform's resources that it stands for. The kinds of a picture's modules that no box has, and that are no
detail, are an error: so are boxes for what the modules do not make.
"""

from __future__ import annotations

import pathlib
import re
import sys
from html import escape

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from charts import Svg  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
# How a box comes to be: (colour of its border, dashed)
BY_DEFAULT, ASKED_FOR, YOURS = ("blue", False), ("blue", True), ("grey", False)


class Diagram(Svg):
    def __init__(self, title: str, description: str):
        super().__init__(860, title, description)
        self.kinds: set[str] = set()
        self.text(16, 26, title, "title")
        x = 16.0
        for words, kind in (("made by default", BY_DEFAULT), ("made where a setting asks for it", ASKED_FOR), ("yours", YOURS)):
            self.frame(x, 38, 22, 12, kind)
            self.text(x + 28, 48, words, "small", colour="muted")
            x += 52 + 6 * len(words)

    def frame(self, x: float, y: float, width: float, height: float, kind: tuple[str, bool], weight: float = 1.5) -> None:
        colour, dashed = kind
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" fill="none" class="s-{colour}" stroke-width="{weight:g}"{dash}/>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: tuple[str, bool], title: str, *lines: str, of: str = "") -> None:
        """A box with its words in the middle. `of` has the kinds of resources that it stands for."""
        self.kinds |= set(of.split())
        self.frame(x, y, width, height, kind)
        at = y + (height - 14 * len(lines)) / 2 + 4
        self.text(x + width / 2, at, title, "bold", "middle")
        for number, line in enumerate(lines, 1):
            self.text(x + width / 2, at + 14 * number, line, "small", "middle", "muted")

    def group(self, x: float, y: float, width: float, height: float, kind: tuple[str, bool], title: str, of: str = "") -> None:
        self.kinds |= set(of.split())
        self.frame(x, y, width, height, kind, 0.75)
        self.text(x + 10, y + 17, title, "small", colour="muted")

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Along straight lines that go across or up and down, with a head at its end."""
        (x1, y1), (x2, y2) = points[-2:]
        across, down = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
        self.path([*points[:-1], (x2 - 5 * across, y2 - 5 * down)], "muted", 1.25, dashed)
        corners = [(x2, y2), (x2 - 7 * across - 3.5 * down, y2 - 7 * down - 3.5 * across), (x2 - 7 * across + 3.5 * down, y2 - 7 * down + 3.5 * across)]
        self.parts.append(f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z" class="f-muted"/>')


def aws() -> Diagram:
    picture = Diagram(
        "On AWS",
        "Callers reach an HTTP API or a Function URL, both of which call the alias live of a Lambda function. CodeDeploy can move the alias from "
        "version to version. The image is in ECR, a packed model can be in S3, the key is in Secrets Manager, logs, metrics and alarms are in "
        "CloudWatch. For millions of pairs, a file in S3 starts a state machine of Step Functions, which calls functions and writes scores to S3.",
    )
    picture.box(16, 92, 104, 210, YOURS, "callers", "with an API key", "or with IAM")
    picture.box(160, 92, 148, 58, BY_DEFAULT, "HTTP API", "IAM or JWT, if asked for", "30 seconds, 6 MB",
                of="aws_apigatewayv2_api aws_apigatewayv2_integration aws_apigatewayv2_route aws_apigatewayv2_stage aws_apigatewayv2_authorizer")
    picture.box(160, 168, 148, 58, BY_DEFAULT, "Function URL", "signed by IAM", "15 minutes, 6 MB", of="aws_lambda_function_url")
    picture.box(160, 244, 148, 58, YOURS, "load balancer", "that calls the alias", "1 MB")
    for y in (121, 197, 273):
        picture.arrow((120, y), (160, y))
        picture.arrow((308, y), (326, y), (326, 134), (350, 134))
    picture.group(340, 74, 268, 240, BY_DEFAULT, "Lambda function", of="aws_lambda_function aws_lambda_provisioned_concurrency_config")
    picture.box(350, 106, 112, 56, BY_DEFAULT, "alias live", "what callers reach", of="aws_lambda_alias")
    picture.box(482, 106, 112, 56, BY_DEFAULT, "new version", "program, model,", "settings")
    picture.box(482, 178, 112, 56, BY_DEFAULT, "versions before", "the newest 10", "and those in use", of="aws_cloudwatch_event_rule aws_cloudwatch_event_target")
    picture.arrow((462, 134), (482, 134))
    picture.arrow((462, 150), (470, 150), (470, 206), (482, 206), dashed=True)
    picture.box(350, 246, 112, 56, ASKED_FOR, "CodeDeploy", "moves the alias,", "or back", of="aws_codedeploy_app aws_codedeploy_deployment_group terraform_data")
    picture.box(482, 246, 112, 56, ASKED_FOR, "check first", "/ready, and pairs", "of known scores")
    picture.arrow((406, 246), (406, 162), dashed=True)
    picture.arrow((462, 274), (482, 274), dashed=True)
    picture.arrow((594, 274), (602, 274), (602, 134), (594, 134), dashed=True)
    picture.box(648, 74, 196, 44, BY_DEFAULT, "ECR", "the image, by its digest", of="aws_ecr_repository aws_ecr_repository_policy aws_ecr_lifecycle_policy")
    picture.box(648, 128, 196, 44, ASKED_FOR, "S3: a packed model", "instead of the image's", of="aws_s3_bucket")
    picture.box(648, 182, 196, 44, BY_DEFAULT, "Secrets Manager: the key", "its hash is in the settings")
    picture.box(648, 236, 196, 66, BY_DEFAULT, "CloudWatch", "logs, metrics, alarms,", "a dashboard",
                of="aws_cloudwatch_log_group aws_cloudwatch_log_metric_filter aws_cloudwatch_metric_alarm aws_cloudwatch_dashboard")
    for y, kind in ((96, BY_DEFAULT), (150, ASKED_FOR), (204, BY_DEFAULT)):
        picture.arrow((648, y), (608, y), dashed=kind[1])
    picture.arrow((608, 284), (648, 284))
    picture.box(160, 330, 148, 44, BY_DEFAULT, "KMS key", "images, logs, settings", of="aws_kms_key aws_kms_alias")
    picture.box(340, 330, 268, 44, ASKED_FOR, "traces", "X-Ray, or a collector of yours by OTLP")
    picture.arrow((474, 314), (474, 330), dashed=True)
    picture.box(648, 330, 196, 44, YOURS, "SNS topic", "told of alarms")
    picture.arrow((746, 302), (746, 330))
    picture.group(16, 394, 828, 122, ASKED_FOR, "bulk = true: millions of pairs")
    picture.box(28, 426, 116, 76, ASKED_FOR, "S3, in/", "pairs.jsonl,", "or packed by gzip", of="aws_s3_bucket_notification")
    picture.box(178, 426, 110, 76, ASKED_FOR, "EventBridge", "one event,", "one run")
    picture.box(322, 426, 148, 76, ASKED_FOR, "Step Functions", "cuts batches, retries,", "lists what failed", of="aws_sfn_state_machine")
    picture.box(504, 420, 172, 40, ASKED_FOR, "reading function", "finds lines that are no JSON")
    picture.box(504, 468, 172, 40, ASKED_FOR, "scoring function", "the same image")
    picture.box(716, 426, 116, 76, ASKED_FOR, "S3, out/", "scores, refusals,", "a manifest")
    for x1, x2, y in ((144, 178, 464), (288, 322, 464), (470, 504, 440), (470, 504, 488), (676, 716, 440), (676, 716, 488)):
        picture.arrow((x1, y), (x2, y))
    picture.height = 532
    return picture


def azure() -> Diagram:
    picture = Diagram(
        "On Azure",
        "Callers reach the CPU app on Container Apps; where asked for, a GPU app in an environment of its own, and a function app whose Functions host "
        "starts the program as its custom handler. Images are in a container registry, keys can be in a Key Vault, logs go to Log Analytics and, of the "
        "function app, to Application Insights. Alerts are mailed.",
    )
    picture.box(16, 74, 104, 326, YOURS, "callers", "with an API key")
    rows = (
        (74, BY_DEFAULT, "Container Apps", "ingress", ("TLS, address ranges",), "CPU app", ("0 to 10 replicas by requests,", "old and new revision")),
        (188, ASKED_FOR, "Container Apps, in a region that has GPUs", "ingress", ("TLS, address ranges",), "GPU app", ("a T4 or A100,", "0 or 1 replica")),
        (302, ASKED_FOR, "Functions, on a Premium plan", "Functions host", ("HTTP, timers,", "with or without /api"), "custom handler", ("the same program,", "1 to 3 instances")),
    )
    kinds = (
        "azurerm_container_app_environment azurerm_container_app",
        "azapi_resource",
        "azurerm_service_plan azurerm_linux_function_app",
    )
    for (y, kind, title, door, told, app, tells), of in zip(rows, kinds, strict=True):
        picture.group(160, y, 416, 98, kind, title, of=of)
        picture.box(172, y + 28, 150, 58, kind, door, *told)
        picture.box(362, y + 28, 202, 58, kind, app, *tells)
        picture.arrow((120, y + 57), (172, y + 57))
        picture.arrow((322, y + 57), (362, y + 57))
    # What all apps share is joined by one line.
    for y in (123, 237, 318):
        picture.arrow((600, y), (576, y), dashed=y > 123)
    picture.path([(600, 93), (600, 318)], "muted", 1.25, False)
    stores = (
        (BY_DEFAULT, "container registry", "images, by digest", "azurerm_container_registry"),
        (BY_DEFAULT, "managed identities", "pull images, read the keys' secret", "azurerm_user_assigned_identity azurerm_role_assignment"),
        (BY_DEFAULT, "Log Analytics", "logs, and a workbook over them",
         "azurerm_log_analytics_workspace azurerm_monitor_diagnostic_setting azurerm_application_insights_workbook"),
        (ASKED_FOR, "Key Vault", "keys that the apps read", ""),
        (ASKED_FOR, "alerts", "mailed to alert_email",
         "azurerm_monitor_action_group azurerm_monitor_metric_alert azurerm_monitor_scheduled_query_rules_alert_v2"),
        (ASKED_FOR, "Application Insights", "of the function app", "azurerm_application_insights"),
        (ASKED_FOR, "storage account", "the Functions host's", "azurerm_storage_account"),
    )
    x, height, step = 626, 38, 48
    for number, (kind, title, line, of) in enumerate(stores):
        y = 74 + step * number
        picture.box(x, y, 218, height, kind, title, line, of=of)
        middle = y + height / 2
        if title in ("Log Analytics", "alerts"):
            picture.arrow((600, middle), (x, middle), dashed=kind[1])
        elif title == "Application Insights":
            picture.arrow((576, middle), (x, middle), dashed=True)
        elif title == "storage account":
            picture.arrow((x, middle), (576, middle), dashed=True)
        else:
            picture.path([(x, middle), (600, middle)], "muted", 1.25, kind[1])
    picture.height = 424
    return picture


# file: (what draws it, the folders of terraform/ that it shows, kinds that only belong to what has a box)
PICTURES = {
    "aws.svg": (
        aws,
        "aws modules/lambda modules/lambda-bulk modules/bucket",
        "aws_iam_role aws_iam_role_policy aws_iam_policy aws_lambda_permission aws_s3_bucket_lifecycle_configuration aws_s3_bucket_ownership_controls "
        "aws_s3_bucket_policy aws_s3_bucket_public_access_block aws_s3_bucket_server_side_encryption_configuration aws_s3_bucket_versioning",
    ),
    "azure.svg": (azure, "azure modules/container-app modules/functions", "azurerm_resource_group random_string"),
}


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    for file, (draws, folders, details) in PICTURES.items():
        picture = draws()
        texts = [path.read_text() for folder in folders.split() for path in (ROOT / "terraform" / folder).glob("*.tf")]
        made = {kind for text in texts for kind in re.findall(r'(?m)^resource "(\w+)"', text)}
        shown = picture.kinds | set(details.split())
        if made != shown:
            sys.exit(f"{file}: terraform makes {sorted(made - shown)} and no box shows it; boxes show {sorted(shown - made)}, which is not made: mend docs/pictures/clouds.py")
        drawn = picture.render()
        path = HERE / file
        if not sys.argv[1:]:
            path.write_text(drawn, encoding="utf-8")
            print(path)
        elif not path.is_file() or path.read_text(encoding="utf-8") != drawn:
            sys.exit(f"{file} is not what docs/pictures/clouds.py draws: `make charts`")


if __name__ == "__main__":
    main()
