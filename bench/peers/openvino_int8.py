#!/usr/bin/env python3
"""OpenVINO on what export_openvino.py made: int8 weights with dynamic activations, or statically quantized activations."""

import pathlib

import serving


def load(folder: str, threads: int) -> serving.Engine:
    import numpy
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    static = pathlib.Path(folder).name == "static"
    if not static:
        # one scale for every 1024 activations: the coarsest, and the fastest
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 1024
    request = core.compile_model(f"{folder}/model.xml", "CPU", settings).create_infer_request()

    def score(rows: list[list[int]]) -> list[float]:
        ids, mask = (numpy.array(part, dtype=numpy.int64) for part in serving.padded(rows))
        return request.infer({"input_ids": ids, "attention_mask": mask})[0][:, 0].tolist()

    kind = "static" if static else "dynamic"
    return serving.Engine(f"openvino int8 {kind}", f"openvino {openvino.__version__.split('-')[0]}", score)


if __name__ == "__main__":
    serving.main(load)
