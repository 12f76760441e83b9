#!/usr/bin/env python3
"""Makes OpenVINO's int8 models of a Hugging Face reranker folder.

usage: export_openvino.py MODEL_DIR OUT_DIR dynamic    int8 weights, activations quantized at run time
       export_openvino.py MODEL_DIR OUT_DIR static     activations too, with one scale per tensor, from calibration by NNCF

The weights of a benchmark's model are random, so it is calibrated on random ids; that decides the scales, not the speed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))

CALIBRATION_SEQUENCES = 8


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[3] not in ("dynamic", "static"):
        sys.exit(__doc__)
    folder, out, kind = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    import nncf
    import openvino
    import torch
    import torch_model

    model = torch_model.load(folder, "sdpa")
    model.config.return_dict = False
    ids = torch.randint(5, 100, (2, 32))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    converted = openvino.convert_model(
        model,
        example_input=inputs,
        input=[(name, openvino.PartialShape([-1, -1]), openvino.Type.i64) for name in inputs],
    )
    vocabulary = model.config.vocab_size
    del model
    if kind == "dynamic":
        quantized = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_SYM)
    else:
        draw = torch.Generator().manual_seed(1)

        def sequence(_: int) -> dict:
            ids = torch.randint(5, vocabulary, (1, 128), generator=draw)
            return {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}

        quantized = nncf.quantize(
            converted,
            nncf.Dataset(range(CALIBRATION_SEQUENCES), sequence),
            subset_size=CALIBRATION_SEQUENCES,
            model_type=nncf.ModelType.TRANSFORMER,
        )
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(quantized, out / "model.xml")


if __name__ == "__main__":
    main()
