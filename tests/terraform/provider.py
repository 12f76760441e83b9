"""A Terraform provider that has a schema and nothing behind it: enough for `validate`, and for tests with `mock_provider`.

    provider.py SCHEMA      what schema.py wrote

Terraform checks against it names, types, what is required and what refers to what. A provider's own rules for values are not in it.
"""

import base64
import json
import pathlib
import sys
import tempfile
import threading
from concurrent import futures

import grpc
from tf.gen import grpc_controller_pb2, grpc_controller_pb2_grpc, grpc_stdio_pb2_grpc
from tf.gen import tfplugin_pb2 as plugin
from tf.gen import tfplugin_pb2_grpc
from tf.runner import _self_signed_cert

NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def attribute(name, of):
    return plugin.Schema.Attribute(
        name=name, type=json.dumps(of["type"]).encode(), required=of["required"], optional=of["optional"], computed=of["computed"]
    )


def nested(name, of):
    several = of["nesting"] in ("list", "set")
    return plugin.Schema.NestedBlock(
        type_name=name,
        block=block(of["block"]),
        nesting=NESTING[of["nesting"]],
        min_items=int(several and of["required"]),
        max_items=int(several and of["one"]),
    )


def block(of):
    return plugin.Schema.Block(
        attributes=[attribute(name, each) for name, each in of["attributes"].items()],
        block_types=[nested(name, each) for name, each in of["blocks"].items()],
    )


class Provider(tfplugin_pb2_grpc.ProviderServicer):
    """Terraform asks a mocked provider for its schema and for its word on configurations, and for nothing else."""

    def __init__(self, schema):
        self.schema = schema

    def GetMetadata(self, request, context):
        return plugin.GetMetadata.Response(
            resources=[plugin.GetMetadata.ResourceMetadata(type_name=name) for name in self.schema["resource"]],
            data_sources=[plugin.GetMetadata.DataSourceMetadata(type_name=name) for name in self.schema["data"]],
        )

    def GetProviderSchema(self, request, context):
        return plugin.GetProviderSchema.Response(
            provider=plugin.Schema(block=block(self.schema["provider"])),
            resource_schemas={name: plugin.Schema(block=block(each)) for name, each in self.schema["resource"].items()},
            data_source_schemas={name: plugin.Schema(block=block(each)) for name, each in self.schema["data"].items()},
        )

    def ValidateProviderConfig(self, request, context):
        return plugin.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return plugin.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return plugin.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return plugin.ConfigureProvider.Response()

    def StopProvider(self, request, context):
        return plugin.StopProvider.Response()


class Controller(grpc_controller_pb2_grpc.GRPCControllerServicer):
    def __init__(self, stop):
        self.stop = stop

    def Shutdown(self, request, context):
        self.stop.set()
        return grpc_controller_pb2.Empty()


class Output(grpc_stdio_pb2_grpc.GRPCStdioServicer):
    def StreamStdio(self, request, context):
        return iter(())


def main():
    schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
    stop = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=UNBOUNDED)
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(Provider(schema), server)
    grpc_controller_pb2_grpc.add_GRPCControllerServicer_to_server(Controller(stop), server)
    grpc_stdio_pb2_grpc.add_GRPCStdioServicer_to_server(Output(), server)
    certificate, credentials = _self_signed_cert()
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/socket"
        server.add_secure_port(f"unix://{socket}", credentials)
        server.start()
        # The plugin protocol's greeting: its versions, where to connect, and whom to expect there.
        print(f"1|6|unix|{socket}|grpc|{base64.b64encode(certificate).decode().rstrip('=')}", flush=True)
        stop.wait()
        server.stop(0.2)


main()
