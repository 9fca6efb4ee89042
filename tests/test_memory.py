"""The memory planner: bytes counted by hand, the real step of a tiny model, and what comes of both for a sweep."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError, ModelError
from kaggle_runner.memory.fake_kernels import CpuKernels, GpuKernels, tensors_of
from kaggle_runner.memory.fit import MemoryLimit, fit_trial
from kaggle_runner.memory.live_bytes import LiveBytes
from kaggle_runner.memory.predict import CPU, GPU, Prediction, predict
from kaggle_runner.memory.timeline import Event, peak_of, peak_of_layers, peak_of_mixture
from kaggle_runner.memory.trace import trace, trace_within
from kaggle_runner.training.control import Control
from kaggle_runner.training.data.batches import EncodedRows
from kaggle_runner.training.data.tokens import EncodedData
from kaggle_runner.training.finetune import train_adapter
from kaggle_runner.training.loss import chunk_scores
from kaggle_runner.training.models.base_model import load_base
from kaggle_runner.training.models.shapes import known_models, read_model_config

V, D, INNER, R = 512, 64, 128, 8
TINY = {"model_type": "llama", "vocab_size": V, "hidden_size": D, "intermediate_size": INNER, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
LINEARS = [(D, D), (D, D // 2), (D, D // 2), (D, D), (D, INNER), (D, INNER), (INNER, D)]
"""Inputs and outputs of a layer's q, k, v, o, gate, up and down."""
ELEMENTS = 2 * [elements for i, o in LINEARS for elements in (R * i, R * o)]
"""Of the adapter's matrices in both layers."""
SKIPPED = ["lm_head", "model.layers.1.mlp", "model.layers.0.self_attn.q_proj"]
"""Modules that a checkpoint in 4 bits keeps in 16."""


def config_of(**values):
    return FinetuneConfig(**{"max_length": 32, "lora_r": R, "max_steps": 2, "eval_steps": 1, **values})


def nf4_bytes(elements):
    """Half a byte for a number, a byte for 64 of them, a float for 256 of those, two tables and an offset."""
    scales = -(-elements // 64)
    return elements // 2 + scales + 4 * -(-scales // 256) + 4 * 256 + 4 * 16 + 4


class TestCountedByHand:
    @pytest.fixture(scope="class")
    @classmethod
    def on_a_cpu(cls):
        return predict(config_of(), TINY, target=CPU)

    def test_the_base_is_4_bit_layers_and_float32_embeddings_head_and_norms(self, on_a_cpu):
        norms, frequencies = 5 * D * 4, 2 * 4 * (D // 4 // 2)  # two for a layer and one at the end; 16 numbers a head
        layers = 2 * sum(nf4_bytes(i * o) for i, o in LINEARS)
        assert on_a_cpu.parts["base"] == layers + 2 * V * D * 4 + norms + frequencies

    def test_adapter_and_gradients_are_float32_and_the_moments_twice_that(self, on_a_cpu):
        adapter = 4 * sum(ELEMENTS)
        assert on_a_cpu.parts["adapter"] == 2 * adapter  # in RAM the best one so far is kept beside it
        assert on_a_cpu.parts["optimizer"] == 2 * adapter
        assert on_a_cpu.parts["gradients"] == adapter
        assert on_a_cpu.phases["optimizer step"] == on_a_cpu.parts["base"] + 5 * adapter

    def test_on_a_gpu_an_adapter_is_one_piece_of_a_multiple_of_512_bytes_and_its_copy_in_half(self):
        prediction = predict(config_of(), TINY, target=GPU)
        rounded = [-(-size * sum(ELEMENTS) // 512) * 512 for size in (4, 2)]
        assert prediction.parts["adapter"] == sum(rounded)
        assert prediction.parts["gradients"] == rounded[0]

    @pytest.mark.parametrize(("optim", "target", "paged"), [
        ("adamw_8bit", CPU, False), ("paged_adamw_8bit", CPU, False), ("paged_adamw_8bit", GPU, True)])
    def test_8_bit_moments_are_bytes_with_a_scale_for_256(self, optim, target, paged):
        """Parameters of 4,096 to 100,000 numbers here: small ones keep floats, and paged ones leave the GPU."""
        rank = 1024
        sizes = [rank // R * elements for elements in ELEMENTS]
        moments = sum(8 * -(-n // 256) + (0 if paged and n >= 100_000 else 2 * n) for n in sizes)
        prediction = predict(config_of(lora_r=rank, optim=optim), TINY, target=target)
        assert min(sizes) < 100_000 < max(sizes)
        assert prediction.parts["optimizer"] == moments

    def test_a_gpu_keeps_no_scores_of_every_token_with_every_other(self):
        heads, length = 32, 512
        shape = TINY | {"num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": 8}
        prediction = predict(config_of(max_length=length, gradient_checkpointing=True), shape, target=GPU)
        assert prediction.parts["activations"] < 2 * heads * length**2 * 2


def real_peak_bytes(base, config, directory, conversations=0):
    """Train and evaluate for real: the most that torch's allocator had given out, by the profiler's record."""
    def rows(lengths):
        """Full rows, some of them conversations in which every other stretch of 8 tokens is a question."""
        trained = [(np.arange(length) % 16 >= 8) | (i % 4 >= conversations) for i, length in enumerate(lengths)]
        return EncodedRows(tokens=np.arange(sum(lengths), dtype=np.int32) % 500, starts=np.cumsum([0, *lengths]),
                           trained=np.concatenate(trained))

    data = EncodedData(train=rows([config.max_length] * 6 + [config.max_length - 1] * 2),
                       validation=rows([config.max_length] * 8), sha256="", notes={})
    held = sum(tensor.nbytes for tensor in tensors_of(base.model))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        train_adapter(base, data, config, "0000", Control(poll=lambda: None, emit=lambda event: None,
                                                          directory=directory))
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
                     if event.name() == "[memory]")
    return held + int(np.cumsum([change for _, change in changes]).max())


@pytest.mark.parametrize(("checkpointing", "conversations"), [(False, 0), (True, 0), (False, 2)])
def test_the_prediction_is_what_a_real_step_takes(tiny_llama, tmp_path, checkpointing, conversations):
    config = config_of(model=str(tiny_llama), batch_size=4, gradient_accumulation_steps=2, max_length=128,
                       gradient_checkpointing=checkpointing)
    real = real_peak_bytes(load_base(config, torch.device("cpu")), config, tmp_path, conversations)
    predicted = predict(config, target=CPU).peak_bytes
    if conversations:  # it counts on the worst: rows of which every token is learned
        assert real < predicted < 1.3 * real
    else:
        assert predicted == pytest.approx(real, rel=0.03)


class TestLayers:
    """Four traced layers stand for all, or all are traced."""

    @pytest.mark.parametrize(("cuda", "checkpointing"), [(True, True), (False, False)])
    def test_unrolled_layers_have_the_peak_of_traced_ones(self, cuda, checkpointing):
        shape, config = TINY | {"num_hidden_layers": 6}, config_of(gradient_checkpointing=checkpointing)
        few = trace(config, shape, cuda=cuda, half=cuda)
        # a name with a dot may be one layer's, so that all of them are traced
        parts = {"self_attn": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
        everything = tuple(f"{part}.{name}_proj" for part, names in parts.items() for name in names)
        every = trace(dataclasses.replace(config, target_modules=everything), shape, cuda=cuda, half=cuda)
        assert (few.layers_traced, every.layers_traced) == (4, 6)
        assert few.peaks == every.peaks

    @pytest.mark.parametrize("cuda", [True, False])
    def test_a_mixture_of_lists_has_the_peak_of_traced_layers(self, cuda):
        """Composed from traces of four layers of one list each; the mixture itself is traced layer by layer."""
        shape, config = TINY | {"num_hidden_layers": 7}, config_of(max_length=512)
        least, most = (trace(config, shape, cuda=cuda, half=cuda, keep=f"{keep} 7").peaks["training"].total_bytes
                       for keep in ("input", "products"))
        keeps = set()
        for share in (0.3, 0.6, 0.9):
            budget = int(least + share * (most - least))
            within = trace_within(config, shape, cuda=cuda, half=cuda, budget_bytes=budget)
            assert within.layers_traced == 4
            every = trace(config, shape, cuda=cuda, half=cuda, keep=within.keep)
            assert (every.layers_traced, every.keep) == (7, within.keep)
            assert within.peaks["training"] == every.peaks["training"]
            assert least < within.peaks["training"].total_bytes <= budget
            keeps.add(within.keep)
        assert len(keeps) == 3

    def test_lists_are_mixed_where_layers_differ_and_are_few(self):
        config = config_of(max_length=256)
        shape = TINY | {"model_type": "smollm3", "pad_token_id": 0, "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]}
        least, most = (trace(config, shape, cuda=False, half=False, keep=f"{keep} 3").peaks["training"].total_bytes
                       for keep in ("input", "products"))
        within = trace_within(config, shape, cuda=False, half=False, budget_bytes=(least + most) // 2)
        assert "input" in within.keep
        assert "products" in within.keep
        every = trace(config, shape, cuda=False, half=False, keep=within.keep)
        assert (within.layers_traced, within.peaks) == (3, every.peaks)

    def test_what_a_checkpoint_in_4_bits_keeps_in_16_is_counted(self, tiny_llama, tmp_path):
        """As Unsloth's checkpoints do: some layers, named by their place, stay in 16 bits."""
        whole = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                bnb_4bit_use_double_quant=True, llm_int8_skip_modules=SKIPPED)
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=whole,
                                                                  device_map={"": "cpu"}, dtype=torch.float32)
        model.save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
        config = config_of(model=str(tmp_path))
        real = sum(tensor.nbytes for tensor in tensors_of(load_base(config, torch.device("cpu")).model))
        prediction = predict(config, target=CPU)
        assert prediction.parts["base"] == real
        assert prediction.layers_traced == len(model.model.layers)

    def test_a_mixture_is_not_composed_where_it_matters_outside_the_layers(self):
        def events(size, freed):
            forward = [Event(("forward", n), "activations", size, ("forward", n)) for n in (1, 2, 3, 4)]
            loss = [Event(("loss", 0), "loss", freed, ("loss", 0))]
            backward = [Event(("backward", n), "activations", -size, ("forward", n)) for n in (4, 3, 2, 1)]
            return [*forward, *loss, *backward]

        alike = {"a": events(10, 5), "b": events(20, 5)}
        assert peak_of_mixture(alike, {}, ["a", "a", "b", "a", "b"]).total_bytes == 75
        assert peak_of_mixture({"a": events(10, 5), "b": events(20, 6)}, {}, ["a", "b", "a"]) is None

    def test_layers_that_differ_are_all_traced(self):
        shape = TINY | {"model_type": "gemma3_text", "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 16,
                        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        assert trace(config_of(), shape, cuda=True, half=True).layers_traced == 7

    @pytest.mark.parametrize(("kernels", "pieces"), [(GpuKernels, (2.0, 2.1)), (CpuKernels, (1.0, 1.1))])
    def test_an_evaluation_scores_all_logits_at_once_on_a_gpu_and_a_few_rows_at_a_time_on_a_cpu(self, kernels, pieces):
        rows, symbols = 2000, 50_000
        with FakeTensorMode(), kernels(), LiveBytes(block_bytes=1) as live:
            chunk_scores(torch.empty(rows, symbols), torch.zeros(rows, dtype=torch.long))
            events = live.take_events()
        low, high = (piece * rows * symbols * 4 for piece in pieces)
        assert low <= peak_of(events, {}).total_bytes <= high

    def test_a_layer_in_the_middle_is_repeated(self):
        forward = [Event(("forward", n), "activations", 10, ("forward", n)) for n in (1, 2, 3, 4)]
        loss = [Event(("loss", 0), "loss", 5, ("loss", 0)), Event(("loss", 0), "loss", -5, ("loss", 0))]
        backward = [Event(("backward", n), "activations", -10, ("forward", n)) for n in (4, 3, 2, 1)]
        events = [*forward, *loss, *backward]
        assert peak_of(events, {"base": 100}).total_bytes == 145
        deeper = peak_of_layers(events, {"base": 100}, 32)
        assert deeper.total_bytes == 425
        assert deeper.parts == {"base": 100, "activations": 320, "loss": 5}

    def test_what_all_layers_leave_is_given_back_for_all(self):
        """Automatic casts are kept until the forward pass ends, and given back in one go before the loss peaks."""
        casts = [Event(("forward", n), "activations", 10, ("forward", n)) for n in (1, 2, 3, 4)]
        freed = [Event(("loss", 0), "activations", -10, ("forward", n)) for n in (1, 2, 3, 4)]
        loss = [Event(("loss", 0), "loss", 50, ("loss", 0))]
        assert peak_of_layers([*casts, *freed, *loss], {}, 4).total_bytes == 50
        assert peak_of_layers([*casts, *freed, *loss], {}, 9).total_bytes == 90

    def test_inner_layers_that_are_not_alike_give_no_answer(self):
        events = [Event(("forward", n), "activations", 10 + (n == 3), ("forward", n)) for n in (1, 2, 3, 4)]
        assert peak_of_layers(events, {}, 32) is None

    def test_the_recorder_follows_real_tensors_until_they_die(self):
        live = LiveBytes()
        with live:
            first = torch.zeros(1000)
            second = first.view(10, 100) + 1
            del first
            third = torch.cat([second, second])
            del second, third
        events = live.take_events()
        assert [event.size_bytes for event in events] == [4000, 4000, -4000, 8000, -4000, -8000]
        assert peak_of(events, {}).total_bytes == 12000


class TestTheCache:
    def test_a_prediction_is_kept_by_what_decides_it(self, tmp_path):
        made = predict(config_of(), TINY, cache_directory=tmp_path)
        kept = predict(config_of(learning_rate=1e-3, lora_alpha=64, seed=7, gradient_accumulation_steps=8), TINY,
                       cache_directory=tmp_path)
        assert made.seconds > 0
        assert kept == dataclasses.replace(made, seconds=0.0)
        other = predict(config_of(lora_r=4), TINY, cache_directory=tmp_path)
        assert other.parts["adapter"] < made.parts["adapter"]

    def test_a_kept_prediction_needs_no_torch_and_no_second(self, tmp_path):
        predict(config_of(), TINY, cache_directory=tmp_path)
        script = ("import sys, time, pathlib, json\nfrom kaggle_runner.memory.predict import predict\n"
                  "from kaggle_runner.config import FinetuneConfig\nstarted = time.process_time()\n"
                  "predict(FinetuneConfig(**json.loads(sys.argv[1])), json.loads(sys.argv[2]), "
                  "cache_directory=pathlib.Path(sys.argv[3]))\n"
                  "assert 'torch' not in sys.modules and time.process_time() - started < 0.5")
        values = {"max_length": 32, "lora_r": R, "max_steps": 2, "eval_steps": 1}
        subprocess.run([sys.executable, "-c", script, json.dumps(values), json.dumps(TINY), str(tmp_path)], check=True)

    def test_a_damaged_or_unwritable_cache_is_done_without(self, tmp_path):
        made = predict(config_of(), TINY, cache_directory=tmp_path)
        for path in (tmp_path / "memory").iterdir():
            path.write_text("{")
        again = predict(config_of(), TINY, cache_directory=tmp_path)
        assert again.peak_bytes == made.peak_bytes
        blocked = tmp_path / "file"
        blocked.write_text("")
        assert predict(config_of(), TINY, cache_directory=blocked).peak_bytes == made.peak_bytes


class TestFit:
    """Which way a trial is run, from predictions of the same tiny model."""

    SHAPE = TINY | {"num_hidden_layers": 8}

    @pytest.fixture(scope="class")
    @classmethod
    def peaks(cls, tmp_path_factory):
        cache = tmp_path_factory.mktemp("cache")
        params = {"max_length": 512, "lora_r": R, "eval_steps": 1, "max_steps": 1}
        found = [predict(FinetuneConfig(**params, gradient_checkpointing=on), cls.SHAPE,
                         cache_directory=cache).peak_bytes for on in (False, True)]
        return params, cache, found

    def fit(self, peaks, budget_bytes, shape=SHAPE, **params):
        limit = MemoryLimit(budget_bytes=budget_bytes, target=GPU, device="a GPU", reason="", cache_directory=peaks[1])
        return fit_trial({**peaks[0], **params}, limit, shape)

    def test_a_trial_that_fits_computes_nothing_twice(self, peaks):
        fit = self.fit(peaks, peaks[2][0])
        assert fit.fits
        assert not fit.config.gradient_checkpointing
        assert fit.as_notes()["keep"] == "products 8"

    def test_a_trial_that_does_not_fit_otherwise_computes_again_what_there_is_no_room_for(self, peaks):
        whole, least = peaks[2]
        fit = self.fit(peaks, whole - 1)
        assert fit.fits
        assert fit.config.gradient_checkpointing
        assert least < fit.prediction.peak_bytes < fit.without_bytes == whole
        assert fit.as_notes()["keep"].endswith("products 7")
        assert "without computing activations again it would take 0." in fit.reason
        assert fit.reason.endswith(f"its layers keep: {fit.as_notes()['keep']}")
        half = self.fit(peaks, (whole + least) // 2)
        assert half.prediction.peak_bytes <= (whole + least) // 2
        assert half.as_notes()["keep"].startswith("input ")
        assert self.fit(peaks, least).as_notes()["keep"] == "input 8"

    def test_layers_that_transformers_computes_all_run_again(self, peaks):
        shape = self.SHAPE | {"model_type": "gemma2", "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
                              "eos_token_id": 2}
        whole = self.fit(peaks, 2**40, shape).prediction
        fit = self.fit(peaks, whole.peak_bytes - 1, shape)
        assert (fit.fits, fit.config.gradient_checkpointing, fit.as_notes()["keep"]) == (True, True, "")

    def test_what_the_sweep_says_is_done(self, peaks):
        stated = self.fit(peaks, peaks[2][0], gradient_checkpointing=True)
        assert stated.config.gradient_checkpointing
        assert stated.as_notes()["keep"] == "input 8"
        fit = self.fit(peaks, peaks[2][1], gradient_checkpointing=False)
        assert not fit.fits
        assert "set gradient_checkpointing to true or lower batch_size from 2 to 1" in fit.reason

    def test_a_trial_that_never_fits_says_what_it_needs_and_what_helps(self, peaks):
        fit = self.fit(peaks, peaks[2][1] - 1)
        assert not fit.fits
        assert fit.reason.startswith("the trial needs 0.02 GiB but the budget is 0.02 GiB on a GPU; lower batch_size "
                                     "from 2 to 1 or lower max_length from 512 to 256")
        assert self.fit(peaks, 2**19).reason.endswith("choose a smaller model")


class TestModelShapes:
    @pytest.mark.parametrize("known", known_models(), ids=lambda known: known.title)
    def test_a_known_shape_has_the_parameters_of_its_model_card(self, known):
        from kaggle_runner.training.models.bare_model import bare_model

        model = bare_model(known.config, half=True)
        assert sum(parameter.numel() for parameter in model.parameters()) == known.parameters

    @pytest.mark.parametrize(("family", "scaled"), [
        ("llama", False), ("gemma2", False), ("granite", True), ("recurrent_gemma", True), ("roformer", True),
        ("llama4_text", True)])
    def test_a_head_that_is_more_than_a_matrix_is_known_by_its_shape(self, family, scaled):
        from kaggle_runner.training.models.bare_model import bare_model, own_head

        shape = TINY | {"model_type": family, "pad_token_id": 0, "num_hidden_layers": 3}
        shape |= {"logits_scaling": 8.0} if family == "granite" else {}
        assert own_head(bare_model(shape, half=False)) is not scaled

    def test_a_checkpoint_in_4_bits_is_its_family_with_bfloat16_behind_it(self):
        config = read_model_config("unsloth/mistral-7b-v0.3-bnb-4bit")
        assert (config["model_type"], config["vocab_size"], config["torch_dtype"]) == ("mistral", 32768, "bfloat16")
        assert config["quantization_config"]["bnb_4bit_use_double_quant"]

    def test_the_demo_base_and_a_folder_have_their_own(self, tiny_llama):
        assert read_model_config("demo")["model_type"]
        assert read_model_config(str(tiny_llama))["hidden_size"] == 64

    def test_a_model_that_was_downloaded_is_known(self, tmp_path):
        folder = tmp_path / "hub" / "models--owner--name" / "snapshots" / "0123"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(TINY))
        assert read_model_config("owner/name", {"HF_HOME": str(tmp_path)}) == TINY

    def test_an_unknown_model_is_refused_with_the_way_out(self):
        with pytest.raises(ModelError, match=r"the shape of 'nobody/nothing-7b' is not known here; .*put its "
                                             r"config\.json into a folder"):
            read_model_config("nobody/nothing-7b", {})
        with pytest.raises(ModelError, match=r"did you mean Qwen/Qwen2\.5-7B\?"):
            read_model_config("Qwen/Qwen2.5-7b-base", {})

    def test_a_folder_that_holds_no_model_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"has no config\.json with a model_type; give a folder that save_pr"):
            read_model_config(str(tmp_path), {})
        (tmp_path / "config.json").write_text("[]")
        with pytest.raises(ModelError, match=r"config\.json names no model_type"):
            read_model_config(str(tmp_path), {})
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ModelError, match=r"cannot read .*config\.json"):
            read_model_config(str(tmp_path), {})

    def test_a_config_that_is_no_language_model_is_refused(self):
        with pytest.raises(ModelError, match=r"cannot build a causal language model .*'mystery'.*update transformers"):
            predict(config_of(), {"model_type": "mystery"})

    def test_a_base_that_something_else_has_quantised_is_refused(self):
        with pytest.raises(ModelError, match=r"quantised by 'awq'; choose one in 16 bits"):
            predict(config_of(), TINY | {"quantization_config": {"quant_method": "awq"}})

    def test_an_adapter_on_nothing_is_refused(self):
        with pytest.raises(ConfigError, match="no adapter for target_modules"):
            predict(config_of(target_modules=("nothing",)), TINY)


def test_a_prediction_is_plain_json_and_adds_up(tmp_path):
    prediction = predict(config_of(), TINY, cache_directory=tmp_path)
    assert Prediction(**json.loads(json.dumps(dataclasses.asdict(prediction)))) == prediction
    assert sum(prediction.parts.values()) == prediction.peak_bytes == max(prediction.phases.values())
