#!/usr/bin/env bash
# From a tomogram to a RELION 3D classification of one class of particles; README.md explains every step.
# Usage: run.sh [FOLDER]        the RELION project to make; a temporary folder where left out
set -euo pipefail

project=${1:-$(mktemp -d)}
mkdir -p "$project"
cd "$project"
echo "RELION project: $PWD"

# 1. Data: four tomograms, and a RELION 3.1 STAR file that says where 80 particles are and what half of them is.
cryoclass simulate -o Import --species 2 --per-species 40 --tomograms 4 --snr 2 --labelled 0.5 \
    --angpix 10 --box 24 --size 32 128 128

# 2. Cut the subtomograms.
cryoclass extract Import/coordinates.star --tomograms Import/tomograms --box 24 -o Extract

# 3. Teach the classes to the network that comes with cryoclass, from the labelled half: it stays as it is, its head learns.
cryoclass finetune Extract/particles.star --freeze -o Finetune

# 4. Classify all particles, called as RELION calls an External job; it finds its markers and outputs in that folder.
cryoclass predict --o External/job001/ --in_parts Extract/particles.star --model Finetune --split_classes Yes --j 2
ls External/job001/RELION_*
cat External/job001/RELION_OUTPUT_NODES.star

# 5. RELION selects a class by its number: the same particles as in our own file of that class.
relion_star_handler --i External/job001/particles.star --o class1.star --select rlnClassNumber --minval 1 --maxval 1

# 6. RELION classifies that class further: one reference, from nothing, three iterations.
mkdir -p Class3D
relion_refine --i External/job001/class001_aldolase.star --o Class3D/run --denovo_3dref --K 1 --iter 3 \
    --tau2_fudge 4 --particle_diameter 200 --ini_high 60 --pad 1 --sym C1 --flatten_solvent --zero_mask \
    --healpix_order 1 --offset_range 3 --offset_step 2 --dont_combine_weights_via_disc --j 2 >Class3D/run.out

echo "map: $PWD/Class3D/run_it003_class001.mrc"
echo "particles with poses, classes and probabilities: $PWD/Class3D/run_it003_data.star"
