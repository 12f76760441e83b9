#!/usr/bin/env python3
"""ONNX Runtime on what export_onnx.py made: fused operators, dynamic int8, weights mapped from their own file."""

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])

    def score(rows: list[list[int]]) -> list[float]:
        ids, mask = (numpy.array(part, dtype=numpy.int64) for part in serving.padded(rows))
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0][:, 0].tolist()

    return serving.Engine("onnxruntime int8", f"onnxruntime {onnxruntime.__version__}", score)


if __name__ == "__main__":
    serving.main(load)
