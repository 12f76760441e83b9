"""A Terraform provider that has a schema, azurerm's rules for values (rules.py), and nothing behind them: enough for `validate`, for tests with
mocked providers, which ask a provider for these alone, and for a plan against a state that lists addresses (moved.py, changes.py): what is in it
exists, with made-up values, and every change is one in place. Nothing can be applied.

    provider.py NAMESPACE/NAME=SCHEMA...      files that schemas.py has written

Serves until it is stopped, and prints what Terraform wants in TF_REATTACH_PROVIDERS to call it.
"""

import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
from concurrent import futures

import grpc
import msgpack
import rules
from tf.gen import grpc_controller_pb2, grpc_controller_pb2_grpc, grpc_stdio_pb2_grpc, tfplugin_pb2, tfplugin_pb2_grpc

BLOCK_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
ATTRIBUTE_NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}


def attribute(name, entry, in_set):
    flags = {flag: entry.get(flag, False) for flag in ("required", "optional", "computed")}
    if not any(flags.values()):
        flags["optional"] = True
    if "nested" in entry:
        nesting = entry["nested"]["nesting"]
        inner = attributes(entry["nested"]["attributes"], in_set or nesting == "set")
        nested = tfplugin_pb2.Schema.Object(attributes=inner, nesting=ATTRIBUTE_NESTING[nesting])
        return tfplugin_pb2.Schema.Attribute(name=name, nested_type=nested, **flags)
    kind = without_dynamic(entry["type"]) if in_set else entry["type"]
    return tfplugin_pb2.Schema.Attribute(name=name, type=json.dumps(kind).encode(), **flags)


def without_dynamic(kind):
    """Elements of a set have one type; Terraform refuses a schema where it is left open."""
    if kind == "dynamic":
        return "string"
    if isinstance(kind, list):
        return [kind[0], *(without_dynamic(inner) for inner in kind[1:])]
    if isinstance(kind, dict):
        return {name: without_dynamic(inner) for name, inner in kind.items()}
    return kind


def attributes(entries, in_set):
    return [attribute(name, entry, in_set) for name, entry in entries.items()]


def block(content, in_set=False):
    return tfplugin_pb2.Schema.Block(
        attributes=attributes(content["attributes"], in_set),
        block_types=[
            tfplugin_pb2.Schema.NestedBlock(
                type_name=name,
                block=block(entry["block"], in_set or entry["nesting"] == "set"),
                nesting=BLOCK_NESTING[entry["nesting"]],
                min_items=entry["min"],
                max_items=entry["max"],
            )
            for name, entry in content["blocks"].items()
        ],
    )


def schema(content):
    return tfplugin_pb2.Schema(block=block(content))


# What references and validations take for a value.
EXISTING = {
    "account_id": "123456789012",
    "partition": "aws",
    "dns_suffix": "amazonaws.com",
    "arn": "arn:aws:kms:eu-central-1:123456789012:key/1",
    "result": "abc123",
}
UNKNOWN = msgpack.ExtType(0, b"")


def existing(content):
    """Every value of something that exists: computed strings have one, the rest is left open."""
    values = {name: None for name in content["attributes"]}
    for name, entry in content["attributes"].items():
        if entry.get("type") == "string" and entry.get("computed"):
            values[name] = EXISTING.get(name, "existing")
    for name, entry in content["blocks"].items():
        values[name] = {"list": [], "set": [], "map": {}}.get(entry["nesting"])
    return values


def leave_open(content, values, new):
    """What the cloud would fill in is not known; in what exists, that is so of blocks, which the state does not have."""
    for name, entry in content["attributes"].items():
        if new and entry.get("computed") and values[name] is None:
            values[name] = UNKNOWN
    for name, entry in content["blocks"].items():
        inner = values[name]
        for element in inner if isinstance(inner, list) else [inner] if entry["nesting"] == "single" and inner else []:
            leave_open(entry["block"], element, True)


class Provider(tfplugin_pb2_grpc.ProviderServicer):
    def __init__(self, content):
        self.content = content
        self.schemas = tfplugin_pb2.GetProviderSchema.Response(
            provider=schema(content["provider"]),
            resource_schemas={kind: schema(each) for kind, each in content["resources"].items()},
            data_source_schemas={kind: schema(each) for kind, each in content["data"].items()},
        )

    def GetProviderSchema(self, request, context):
        return self.schemas

    def ValidateProviderConfig(self, request, context):
        return tfplugin_pb2.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        values = msgpack.unpackb(request.config.msgpack, ext_hook=msgpack.ExtType)
        told = [tfplugin_pb2.Diagnostic(severity=tfplugin_pb2.Diagnostic.ERROR, summary=fault) for fault in rules.faults(request.type_name, values)]
        return tfplugin_pb2.ValidateResourceConfig.Response(diagnostics=told)

    def ValidateDataResourceConfig(self, request, context):
        return tfplugin_pb2.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return tfplugin_pb2.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        values = existing(self.content["resources"][request.type_name])
        return tfplugin_pb2.UpgradeResourceState.Response(upgraded_state=tfplugin_pb2.DynamicValue(msgpack=msgpack.packb(values)))

    def ReadResource(self, request, context):
        return tfplugin_pb2.ReadResource.Response(new_state=request.current_state)

    def ReadDataSource(self, request, context):
        given = msgpack.unpackb(request.config.msgpack, ext_hook=msgpack.ExtType)
        values = existing(self.content["data"][request.type_name])
        values |= {name: value for name, value in given.items() if value is not None}
        return tfplugin_pb2.ReadDataSource.Response(state=tfplugin_pb2.DynamicValue(msgpack=msgpack.packb(values)))

    def PlanResourceChange(self, request, context):
        planned = request.proposed_new_state
        proposed = msgpack.unpackb(planned.msgpack, ext_hook=msgpack.ExtType)
        if proposed is not None:
            new = msgpack.unpackb(request.prior_state.msgpack, ext_hook=msgpack.ExtType) is None
            leave_open(self.content["resources"][request.type_name], proposed, new)
            planned = tfplugin_pb2.DynamicValue(msgpack=msgpack.packb(proposed))
        return tfplugin_pb2.PlanResourceChange.Response(planned_state=planned)

    def StopProvider(self, request, context):
        return tfplugin_pb2.StopProvider.Response()


class Controller(grpc_controller_pb2_grpc.GRPCControllerServicer):
    def Shutdown(self, request, context):
        # Others may still call.
        return grpc_controller_pb2.Empty()


class Output(grpc_stdio_pb2_grpc.GRPCStdioServicer):
    def StreamStdio(self, request, context):
        return iter(())


def serve(path, folder, index):
    # A provider's schema is larger than the 4 MB that a message may have by default.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.max_send_message_length", -1)])
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(Provider(json.loads(path.read_text())), server)
    grpc_controller_pb2_grpc.add_GRPCControllerServicer_to_server(Controller(), server)
    grpc_stdio_pb2_grpc.add_GRPCStdioServicer_to_server(Output(), server)
    socket = f"{folder}/{index}"
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server, socket


def main(schemas):
    """One process for all providers and all of Terraform's runs, which find it by the variable that this prints."""
    with tempfile.TemporaryDirectory() as folder:
        servers, providers = [], {}
        for index, (address, path) in enumerate(schemas):
            server, socket = serve(pathlib.Path(path), folder, index)
            servers.append(server)
            providers[f"registry.terraform.io/{address}"] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": socket},
            }
        print(json.dumps(providers), flush=True)
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        stopped.wait()


if __name__ == "__main__":
    main([schema.split("=", 1) for schema in sys.argv[1:]])
