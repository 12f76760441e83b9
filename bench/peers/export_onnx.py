#!/usr/bin/env python3
"""Makes ONNX Runtime's best int8 model of a Hugging Face reranker folder: fused graph, dynamic activations, weights in signed int8
with a scale per output channel, tensors in a file beside the graph so that they can be mapped into memory.

usage: export_onnx.py MODEL_DIR OUT_DIR        writes OUT_DIR/model.onnx and OUT_DIR/model.onnx.data

The steps are those of ONNX Runtime's own guide for BERT models: export with the attention spelled out, fuse with
`onnxruntime.transformers`, then `quantize_dynamic`. It refuses to write a graph in which a layer was not fused.
Needs some 8 GB of memory and as much scratch space beside OUT_DIR for a model of 2.3 GB.
"""

import pathlib
import sys
import tempfile
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))


def export_f32(model, out: str) -> None:
    """`model` takes ids and attention mask of a batch, and spells its attention out: the fusion looks for MatMul, Softmax, MatMul,
    which the exporter writes for nothing else."""
    import torch

    ids = torch.randint(5, 100, (2, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, torch.ones_like(ids)),
            out,
            dynamo=False,  # the patterns of the fusion are those of this exporter
            opset_version=17,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={
                "input_ids": {0: "batch", 1: "length"},
                "attention_mask": {0: "batch", 1: "length"},
                "logits": {0: "batch"},
            },
        )


def fuse(path: str, heads: int, hidden: int, wanted: dict[str, int], out: str) -> None:
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(path, model_type="bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    found = fused.get_fused_operator_statistics()
    for operator, count in wanted.items():
        if found[operator] != count:
            sys.exit(f"{operator}: {found[operator]} fused, {count} are needed; the graph would be slower than it can be")
    fused.save_model_to_file(out, use_external_data_format=True)


def quantize(path: str, out: str) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        path,
        out,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=True,
        # shape inference stops at the fused operators; what comes out of them is f32
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def fused_bert(layers: int) -> dict[str, int]:
    """What is fused of an encoder of BERT's kind."""
    return {"Attention": layers, "SkipLayerNormalization": 2 * layers, "BiasGelu": layers}


def write(model, heads: int, hidden: int, wanted: dict[str, int], out: pathlib.Path) -> None:
    import onnx

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        steps = [pathlib.Path(scratch, step) for step in ("export", "fused", "int8")]
        for step in steps:
            step.mkdir()
        plain, fused, int8 = (str(step / "model.onnx") for step in steps)
        export_f32(model, plain)
        fuse(plain, heads, hidden, wanted, fused)
        quantize(fused, int8)
        model = onnx.load(int8)
        onnx.save_model(
            model,
            str(out / "model.onnx"),
            save_as_external_data=True,
            location="model.onnx.data",
            size_threshold=1024,
        )


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    import torch_model

    model = torch_model.load(sys.argv[1], "eager")
    model.config.return_dict = False
    config = model.config
    wanted = fused_bert(config.num_hidden_layers)
    write(model, config.num_attention_heads, config.hidden_size, wanted, pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
