"""A local AWS: moto's server, corrected where its rules are not AWS's, and a front that answers as the HTTP APIs made in it.

    cloud.py PORT FRONT CERTIFICATE PROGRAM

PORT is the endpoint of every service. FRONT is an HTTPS proxy for *.execute-api.*.amazonaws.com: a call goes the way that it goes in AWS, from
the API by its integration to the alias, and to the version that the alias is at. What answers is PROGRAM, started with that version's variables.
"""

import atexit
import base64
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

import moto.awslambda.models as functions
from instance import Instance
from moto.apigatewayv2.models import apigatewayv2_backends
from moto.awslambda.exceptions import LambdaClientError
from moto.awslambda.models import lambda_backends
from moto.ecr.models import ecr_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.iam.access_control import IAMPolicy
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response
from moto.stepfunctions.models import StepFunctionBackend
from moto.stepfunctions.responses import StepFunctionResponse
from stacks import CloudFormation
from werkzeug.serving import run_simple

ACCOUNT = "123456789012"
ROOT = pathlib.Path(__file__).resolve().parents[2]
CONCURRENCY = int(os.environ.get("CLOUD_CONCURRENCY", "1000"))
# Of an instance; a new account is held to less, and may not be given snapshots.
LARGEST = int(os.environ.get("CLOUD_LARGEST_MB", "10240"))
SNAPSHOTS = os.environ.get("CLOUD_SNAPSHOTS", "yes") == "yes"
provisioned = {}

# ---- what moto keeps of a function, or takes from an update, and AWS does

plain = functions.LambdaFunction.get_configuration
update = functions.LambdaFunction.update_configuration
create = functions.LambdaFunction.__init__
code = functions.LambdaFunction.update_function_code


def allowed(spec):
    if spec.get("MemorySize", 0) > LARGEST:
        told = f"1 validation error detected: Value '{spec['MemorySize']}' at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to {LARGEST}"
        raise LambdaClientError("InvalidParameterValueException", f"'MemorySize' value failed to satisfy constraint: {told}")
    if spec.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions" and not SNAPSHOTS:
        raise LambdaClientError("InvalidParameterValueException", "SnapStart is not available to this account")


def created(self, account_id, spec, *rest, **named):
    allowed(spec)
    create(self, account_id, spec, *rest, **named)
    self.logging, self.snapshots = spec.get("LoggingConfig"), spec.get("SnapStart", {}).get("ApplyOn", "None")


def updated(self, changes):
    allowed(changes)
    # Each update is another configuration, which instances that run do not have.
    self.updates = getattr(self, "updates", 0) + 1
    if "ImageConfig" in changes:
        self.image_config = functions.ImageConfig(changes["ImageConfig"])
    names = {"TracingConfig": "tracing_config", "KMSKeyArn": "kms_key_arn", "LoggingConfig": "logging"}
    for name, attribute in names.items():
        if name in changes:
            setattr(self, attribute, changes[name])
    if "EphemeralStorage" in changes:
        self.ephemeral_storage = changes["EphemeralStorage"]["Size"]
    if "SnapStart" in changes:
        self.snapshots = changes["SnapStart"]["ApplyOn"]
    return update(self, changes)


def coded(self, changes):
    self.architectures = changes.get("Architectures", self.architectures)
    return code(self, changes)


def configuration(self, on_create=False):
    told = plain(self, on_create)
    if not (told.get("ImageConfigResponse") or {}).get("ImageConfig"):
        told.pop("ImageConfigResponse", None)
    elif not any(told["ImageConfigResponse"]["ImageConfig"].values()):
        told.pop("ImageConfigResponse")
    if self.logging:
        told["LoggingConfig"] = self.logging
    told["SnapStart"] = {"ApplyOn": self.snapshots, "OptimizationStatus": "On" if self.snapshots != "None" else "Off"}
    return told


told_notification = S3Response.get_bucket_notification


def notification(self):
    """That a bucket's events go to EventBridge is kept, and told to nobody."""
    kept = self.backend.get_bucket_notification_configuration(self.bucket_name)
    if kept is None or kept.event_bridge is None:
        return told_notification(self)
    return 200, {}, '<NotificationConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EventBridgeConfiguration/></NotificationConfiguration>'


def permission(self, action, resource):
    """By the bucket's policy, of which moto reads no conditions: what refuses calls without TLS refuses none that AWS sees."""
    statements = json.loads(self.policy or "{}").get("Statement", [])
    held = [each for each in statements if each.get("Condition") != {"Bool": {"aws:SecureTransport": "false"}}]
    return IAMPolicy(json.dumps({"Statement": held})).is_action_permitted(action, resource)


machine_update = StepFunctionBackend.update_state_machine


def machine_updated(self, tracing_configuration=None, **changes):
    # Go's SDK leaves out what is false.
    return machine_update(self, tracing_configuration={"enabled": False} if tracing_configuration == {} else tracing_configuration, **changes)


functions.LambdaFunction.__init__ = created
functions.LambdaFunction.update_configuration = updated
functions.LambdaFunction.update_function_code = coded
functions.LambdaFunction.get_configuration = configuration
FakeBucket.get_permission = permission
S3Response.get_bucket_notification = notification
StepFunctionBackend.update_state_machine = machine_updated
StepFunctionResponse.list_state_machine_versions = lambda self: json.dumps({"stateMachineVersions": []})
StepFunctionResponse.validate_state_machine_definition = lambda self: json.dumps({"result": "OK", "diagnostics": [], "truncated": False})


instances = {}
starting = threading.Lock()


def within(variables):
    """A function's variables, with the folder that its image would have."""
    model = variables.get("MODEL_DIR", "/model")
    return {**variables, "MODEL_DIR": str(ROOT / "models/demo") if model == "/model" else model}


def invoke(program, region, name, qualifier, event):
    """A direct call: by the program itself in an instance of that version, as nothing of Docker runs here."""
    version = lambda_backends[ACCOUNT][region].get_function(name, qualifier)
    words = version.image_config.cmd or ["serve"]
    key = (version.function_arn, version.version, getattr(version, "updates", 0))
    with starting:
        if key not in instances:
            snapshots = version.snapshots != "None" and version.version != "$LATEST"
            instances[key] = Instance([program, *words], within(version.environment_vars), version.timeout, snapshots)
            atexit.register(instances[key].process.kill)
    answer = instances[key].call(event)
    if instances[key].process.poll() is not None:
        del instances[key]
    return answer


# What an update of a stage may bring, and where moto keeps it.
STAGE = {"defaultRouteSettings": "default_route_settings", "accessLogSettings": "access_log_settings", "autoDeploy": "auto_deploy", "description": "description",
         "routeSettings": "route_settings", "stageVariables": "stage_variables"}


def extended(inner, program, formation):
    """The requests that moto does not know."""

    def application(environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        signed = environ.get("HTTP_AUTHORIZATION", "").split("/")
        region, service = signed[2:4] if len(signed) > 3 else ("", "")

        def body():
            return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))

        def answer(status, body):
            start_response(status, [("content-type", "application/json")])
            return [json.dumps(body).encode()]

        found = re.fullmatch(r"/2015-03-31/functions/([^/]+)/invocations", path)
        if found:
            qualifier = urllib.parse.parse_qs(environ["QUERY_STRING"]).get("Qualifier", ["$LATEST"])[0]
            told, failed, log = invoke(program, region, urllib.parse.unquote(found[1]), qualifier, body())
            headers = [("content-type", "application/json"), ("x-amz-log-result", base64.b64encode(log.encode()).decode())]
            start_response("200 OK", headers + ([("x-amz-function-error", "Unhandled")] if failed else []))
            return [told]
        if service == "cloudformation":
            status, told = formation(region, body())
            start_response(status, [("content-type", "text/xml")])
            return [told.encode()]
        found = re.fullmatch(r"/v2/apis/([^/]+)/stages/([^/]+)", path)
        if found and method == "PATCH":
            stage = apigatewayv2_backends[ACCOUNT][region].apis[found[1]].stages[found[2]]
            for name, value in json.loads(body()).items():
                setattr(stage, STAGE[name], value)
            return answer("200 OK", stage.to_json())
        found = re.fullmatch(r"/v2/tags/arn:aws:apigateway:([^:]+)::/apis/([^/]+)/stages/([^/]+)", path)
        if found:
            tags = apigatewayv2_backends[ACCOUNT][found[1]].apis[found[2]].stages[found[3]].tags
            if method == "POST":
                tags |= json.loads(body())["tags"]
            for name in urllib.parse.parse_qs(environ["QUERY_STRING"]).get("tagKeys", []):
                tags.pop(name, None)
            return answer("201 Created", {})
        if path.rstrip("/") == "/2016-08-19/account-settings":
            limits = {"ConcurrentExecutions": CONCURRENCY, "UnreservedConcurrentExecutions": CONCURRENCY - 100 if CONCURRENCY > 100 else CONCURRENCY}
            return answer("200 OK", {"AccountLimit": limits, "AccountUsage": {}})
        found = re.fullmatch(r"/2019-09-30/functions/([^/]+)/provisioned-concurrency", path)
        if found:
            key = (region, found[1], environ["QUERY_STRING"])
            if method == "PUT":
                provisioned[key] = json.loads(body())["ProvisionedConcurrentExecutions"]
            if method == "DELETE":
                provisioned.pop(key, None)
                start_response("204 No Content", [])
                return [b""]
            if key not in provisioned:
                start_response("404 Not Found", [("content-type", "application/json"), ("x-amzn-errortype", "ProvisionedConcurrencyConfigNotFoundException")])
                return [json.dumps({"Message": "none is set"}).encode()]
            count = provisioned[key]
            return answer("202 Accepted" if method == "PUT" else "200 OK", {
                "RequestedProvisionedConcurrentExecutions": count, "AllocatedProvisionedConcurrentExecutions": count,
                "AvailableProvisionedConcurrentExecutions": count, "Status": "READY"})
        return inner(environ, start_response)

    return application


# ---- the front

class Instances:
    """One process of the program for each set of variables, started at its first call."""

    def __init__(self, program, first):
        self.program, self.next, self.known, self.lock = program, first, {}, threading.Lock()

    def port(self, variables):
        key = json.dumps(variables, sort_keys=True)
        with self.lock:
            if key not in self.known:
                port, self.next = self.next, self.next + 1
                environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), **within(variables)}
                process = subprocess.Popen([self.program, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                atexit.register(process.kill)
                for _ in range(6000):
                    if process.poll() is not None:
                        raise RuntimeError(f"the program ended with {process.returncode}: is port {port} taken?")
                    try:
                        http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/live")
                        self.known[key] = port
                        break
                    except OSError:
                        time.sleep(0.05)
            return self.known[key]


def version_behind(host):
    """What answers at an API's address: by its default route, integration, and alias."""
    api, _, region = host.split(".")[:3]
    apis = apigatewayv2_backends[ACCOUNT][region].apis
    if api not in apis:
        return None
    route = next((route for route in apis[api].routes.values() if route.route_key == "$default"), None)
    if route is None:
        return None
    integration = apis[api].integrations[route.target.rpartition("/")[2]]
    name, alias = re.search(r":function:([^:/]+):([^:/]+)/invocations$", integration.integration_uri).groups()
    backend = lambda_backends[ACCOUNT][region]
    number = backend.get_alias(alias, name).function_version
    version = backend.get_function(name, number)
    digest = version.code["ImageUri"].rpartition("@")[2]
    images = [image for repository in ecr_backends[ACCOUNT][region].repositories.values() for image in repository.images]
    return version if any(image.get_image_digest() == digest for image in images) else None


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        version = version_behind(self.host)
        if version is None:
            status, headers, answer = 500, [], b'{"message":"Internal Server Error"}'
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.instances.port(version.environment_vars), timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "accept-encoding")}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            answer = reply.read()
            status = reply.status
            headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in ("transfer-encoding", "content-length", "connection")]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = pass_on

    def log_message(self, *_):
        pass


def main(port, front, certificate, program):
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(front)), Front)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(certificate)
    server.instances = Instances(program, int(front) + 1)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    application = DomainDispatcherApplication(create_backend_app)
    formation = CloudFormation(f"http://127.0.0.1:{port}")
    run_simple("127.0.0.1", int(port), extended(application, program, formation), threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(*sys.argv[1:])
