#!/usr/bin/env python3
"""ONNX Runtime on what export_onnx.py made: fused operators, dynamic int8, weights mapped from their own file. Held to AVX2 by
held_to_avx2.c, since it has no setting for that."""

import os

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])

    # a graph without padding has no mask
    inputs = [given.name for given in session.get_inputs()]

    def score(rows: list[list[int]]) -> list[float]:
        batch = dict(zip(("input_ids", "attention_mask"), serving.padded(rows), strict=True))
        fed = {name: numpy.array(batch[name], dtype=numpy.int64) for name in inputs}
        return session.run(["logits"], fed)[0][:, 0].tolist()

    held = " avx2" if "held_to_avx2" in os.environ.get("LD_PRELOAD", "") else ""
    return serving.Engine(f"onnxruntime int8{held}", f"onnxruntime {onnxruntime.__version__}", score)


if __name__ == "__main__":
    serving.main(load)
