#!/usr/bin/env bash
# From Warp's tomograms and coordinates to one class, for WarpTools and RELION; README.md explains every step.
# Usage: run.sh [FOLDER]        where to work; a temporary folder where left out
set -euo pipefail

folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
cd "$folder"
echo "folder: $PWD"

# 1. Data: four tomograms as Warp reconstructs them, and coordinates as WarpTools writes them, half of them labelled.
cryoclass simulate --dialect warp -o Warp --species 2 --per-species 40 --tomograms 4 --snr 2 --labelled 0.5 \
    --angpix 10 --box 24 --size 32 128 128

# 2. Teach the classes to the network that comes with cryoclass; the boxes are cut out of the tomograms on the fly.
cryoclass finetune Warp/coordinates.star --tomograms Warp/tomograms --box 24 --freeze -o Finetune

# 3. One ONNX file with everything inside, for any program on any machine.
cryoclass export Finetune -o model.onnx

# 4. Classify all particles, again without extracting them, and write one STAR file per class.
cryoclass predict Warp/coordinates.star --tomograms Warp/tomograms --onnx model.onnx --split-classes -o Predict
head -n 20 Predict/class001_aldolase.star

# 5. WarpTools would export the class from here; cryoclass cuts it instead, at the pixel size that RELION shall see.
cryoclass extract Predict/class001_aldolase.star --tomograms Warp/tomograms --box 24 --angpix 10 -o Extract

# 6. RELION classifies that class further: one reference, from nothing, three iterations.
mkdir -p Class3D
relion_refine --i Extract/particles.star --o Class3D/run --denovo_3dref --K 1 --iter 3 \
    --tau2_fudge 4 --particle_diameter 200 --ini_high 60 --pad 1 --sym C1 --flatten_solvent --zero_mask \
    --healpix_order 1 --offset_range 3 --offset_step 2 --dont_combine_weights_via_disc --j 2 >Class3D/run.out

echo "map: $PWD/Class3D/run_it003_class001.mrc"
echo "particles with poses, classes and probabilities: $PWD/Class3D/run_it003_data.star"
