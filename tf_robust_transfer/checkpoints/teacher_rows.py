"""The table of robust networks whose files `robustbench.py` reads, as text that `teachers.py` takes
apart.

Read entry by entry from RobustBench at 78fcc9e: the networks and their normalisation from its
model definitions, the figures from its records (model_info/), the licences from its LICENSE."""

# Under each heading of data set, norm and eps: id, network of `MODELS`, kind and statistics of
# `teachers.py`, then the published accuracies in percent: on clean images, under
# AutoAttack, and the lower one under another attack where the records have it. Last what differs:
# another eps, the image size.
TEACHERS = """
[cifar10 linf 8/255]
Andriushchenko2020Understanding         preact_resnet_18 preact_wong raw      79.84 43.93
Carmon2019Unlabeled                     wrn_28_10        trades      raw      89.69 59.53
Sehwag2020Hydra                         wrn_28_10        trades      raw      88.98 57.14
Wang2020Improving                       wrn_28_10        trades      raw      87.50 56.29
Hendrycks2019Using                      wrn_28_10        wide        centered 87.11 54.92
Rice2020Overfitting                     wrn_34_20        wide        cifar10  85.34 53.42
Zhang2019Theoretically                  wrn_34_10        trades      raw      84.92 53.08 eps=0.031
Engstrom2019Robustness                  cifar_resnet_50  resnet      engstrom 87.03 49.25
Huang2020Self                           wrn_34_10        trades      raw      83.48 53.34 eps=0.031
Pang2020Boosting                        wrn_34_20        hypersphere cifar10  85.14 53.74
Wong2020Fast                            preact_resnet_18 preact_wong cifar10  83.34 43.21
Ding2020MMA                             wrn_28_4         mma         raw      84.36 41.44
Zhang2019You                            wrn_34_10        trades      raw      87.20 44.83
Zhang2020Attacks                        wrn_34_10        trades      raw      84.52 53.51
Wu2020Adversarial_extra                 wrn_28_10        trades      raw      88.25 60.04
Wu2020Adversarial                       wrn_34_10        wide        raw      85.36 56.17
Gowal2020Uncovering_70_16               wrn_70_16        deepmind    cifar10  85.29 57.20 57.14
Gowal2020Uncovering_70_16_extra         wrn_70_16        deepmind    cifar10  91.10 65.88 65.87
Gowal2020Uncovering_34_20               wrn_34_20        deepmind    cifar10  85.64 56.86 56.82
Gowal2020Uncovering_28_10_extra         wrn_28_10        deepmind    cifar10  89.48 62.80 62.76
Sehwag2021Proxy                         wrn_34_10        wide        raw      86.68 60.27
Sehwag2021Proxy_R18                     cifar_resnet_18  resnet      raw      84.59 55.54
Sitawarin2020Improving                  wrn_34_10        trades      raw      86.84 50.72
Chen2020Efficient                       wrn_34_10        trades      cifar10  85.32 51.12
Cui2020Learnable_34_20                  wrn_34_20        trades      raw      88.70 53.57 eps=0.031
Cui2020Learnable_34_10                  wrn_34_10        trades      raw      88.22 52.86 eps=0.031
Zhang2020Geometry                       wrn_28_10        trades      raw      89.36 59.64
Rebuffi2021Fixing_28_10_cutmix_ddpm     wrn_28_10        deepmind    cifar10  87.33 60.75 60.73
Rebuffi2021Fixing_106_16_cutmix_ddpm    wrn_106_16       deepmind    cifar10  88.50 64.64 64.58
Rebuffi2021Fixing_70_16_cutmix_ddpm     wrn_70_16        deepmind    cifar10  88.54 64.25 64.20
Rebuffi2021Fixing_70_16_cutmix_extra    wrn_70_16        deepmind    cifar10  92.23 66.58 66.56
Sridhar2021Robust                       wrn_28_10        trades      raw      89.46 59.66
Sridhar2021Robust_34_15                 wrn_34_15        trades      raw      86.53 60.41
Rebuffi2021Fixing_R18_ddpm              preact_resnet_18 dm_preact   cifar10  83.53 56.66
Rade2021Helper_R18_extra                preact_resnet_18 dm_preact   cifar10  89.02 57.67
Rade2021Helper_R18_ddpm                 preact_resnet_18 dm_preact   cifar10  86.86 57.09
Rade2021Helper_extra                    wrn_34_10        deepmind    cifar10  91.47 62.83
Rade2021Helper_ddpm                     wrn_28_10        deepmind    cifar10  88.16 60.97
Huang2021Exploring                      wrn_by_group     wrn_34_r    raw      90.56 61.56
Huang2021Exploring_ema                  wrn_by_group     wrn_34_r    raw      91.23 62.54
Addepalli2021Towards_RN18               cifar_resnet_18  resnet      raw      80.24 51.06
Addepalli2021Towards_WRN34              wrn_34_10        trades      raw      85.32 58.04
Gowal2021Improving_70_16_ddpm_100m      wrn_70_16        deepmind    cifar10  88.74 66.11 66.10
Gowal2021Improving_28_10_ddpm_100m      wrn_28_10        deepmind    cifar10  87.50 63.44 63.38
Gowal2021Improving_R18_ddpm_100m        preact_resnet_18 dm_preact   cifar10  87.35 58.63 58.50
Chen2021LTD_WRN34_10                    wrn_34_10        wide        raw      85.21 56.94
Chen2021LTD_WRN34_20                    wrn_34_20        wide        raw      86.03 57.71
Standard                                wrn_28_10        wide        raw      94.78  0.00
Jia2022LAS-AT_34_10                     wrn_34_10        wide        raw      84.98 56.26
Jia2022LAS-AT_70_16                     wrn_70_16        wide        raw      85.66 57.61
Pang2022Robustness_WRN28_10             wrn_28_10        deepmind    cifar10  88.61 61.04
Pang2022Robustness_WRN70_16             wrn_70_16        deepmind    cifar10  89.01 63.35
Addepalli2022Efficient_RN18             cifar_resnet_18  resnet      raw      85.71 52.48
Addepalli2022Efficient_WRN_34_10        wrn_34_10        wide        raw      88.71 57.81
Huang2022Revisiting_WRN-A4              wrn_by_group     wrn_a4      cifar10  91.58 65.79
Wang2023Better_WRN-28-10                wrn_28_10        deepmind    cifar10  92.44 67.31
Wang2023Better_WRN-70-16                wrn_70_16        deepmind    cifar10  93.25 70.69
Xu2023Exploring_WRN-28-10               wrn_28_10        deepmind    cifar10  93.69 63.89
Cui2023Decoupled_WRN-28-10              wrn_28_10        deepmind    cifar10  92.16 67.73
Cui2023Decoupled_WRN-34-10              wrn_34_10        wide        raw      85.31 57.09
Chen2024Data_WRN_34_10                  wrn_34_10        wide        raw      86.54 57.30
Chen2024Data_WRN_34_20                  wrn_34_20        wide        raw      86.10 58.09
Bartoldson2024Adversarial_WRN-94-16     wrn_94_16        deepmind    cifar10  93.68 73.71
Bartoldson2024Adversarial_WRN-82-8      wrn_82_8         deepmind    cifar10  93.11 71.59
[cifar10 l2 0.5]
Augustin2020Adversarial                 cifar_resnet_50  resnet      augustin 91.08 72.91
Engstrom2019Robustness                  cifar_resnet_50  resnet      engstrom 90.83 69.24
Rice2020Overfitting                     preact_resnet_18 preact      cifar10  88.67 67.68
Rony2019Decoupling                      wrn_28_10        wide        rony     89.05 66.44
Standard                                wrn_28_10        wide        raw      94.78  0.00
Ding2020MMA                             wrn_28_4         mma         raw      88.02 66.09
Wu2020Adversarial                       wrn_34_10        wide        raw      88.51 73.66
Gowal2020Uncovering                     wrn_70_16        deepmind    cifar10  90.90 74.50
Gowal2020Uncovering_extra               wrn_70_16        deepmind    cifar10  94.74 80.53
Sehwag2021Proxy                         wrn_34_10        wide        raw      90.93 77.24
Sehwag2021Proxy_R18                     cifar_resnet_18  resnet      raw      89.76 74.41
Rebuffi2021Fixing_70_16_cutmix_ddpm     wrn_70_16        deepmind    cifar10  92.41 80.42
Rebuffi2021Fixing_28_10_cutmix_ddpm     wrn_28_10        deepmind    cifar10  91.79 78.80
Rebuffi2021Fixing_70_16_cutmix_extra    wrn_70_16        deepmind    cifar10  95.74 82.32
Augustin2020Adversarial_34_10           wrn_34_10        wide        augustin 92.23 76.25
Augustin2020Adversarial_34_10_extra     wrn_34_10        wide        augustin 93.96 78.79
Rebuffi2021Fixing_R18_cutmix_ddpm       preact_resnet_18 dm_preact   cifar10  90.33 75.86
Rade2021Helper_R18_ddpm                 preact_resnet_18 dm_preact   cifar10  90.57 76.15
Wang2023Better_WRN-28-10                wrn_28_10        deepmind    cifar10  95.16 83.68
Wang2023Better_WRN-70-16                wrn_70_16        deepmind    cifar10  95.54 84.97
[cifar100 linf 8/255]
Gowal2020Uncovering                     wrn_70_16        deepmind    short100 60.86 30.03
Gowal2020Uncovering_extra               wrn_70_16        deepmind    short100 69.15 36.88
Cui2020Learnable_34_20_LBGAT6           wrn_34_20        trades      raw      62.55 30.20
Cui2020Learnable_34_10_LBGAT0           wrn_34_10        trades      raw      70.25 27.16
Cui2020Learnable_34_10_LBGAT6           wrn_34_10        trades      raw      60.64 29.33
Chen2020Efficient                       wrn_34_10        trades      chen     62.15 26.94
Wu2020Adversarial                       wrn_34_10        wide        cifar100 60.38 28.86
Sehwag2021Proxy                         wrn_34_10        wide        raw      65.93 31.15
Sitawarin2020Improving                  wrn_34_10        trades      raw      62.82 24.57
Hendrycks2019Using                      wrn_28_10        wide        centered 59.23 28.42
Rice2020Overfitting                     preact_resnet_18 preact      cifar100 53.83 18.95
Rebuffi2021Fixing_70_16_cutmix_ddpm     wrn_70_16        deepmind    short100 63.56 34.64
Rebuffi2021Fixing_28_10_cutmix_ddpm     wrn_28_10        deepmind    short100 62.41 32.06
Rebuffi2021Fixing_R18_ddpm              preact_resnet_18 dm_preact   short100 56.87 28.50
Rade2021Helper_R18_ddpm                 preact_resnet_18 dm_preact   short100 61.50 28.88
Addepalli2021Towards_PARN18             preact_resnet_18 preact      raw      62.02 27.14
Addepalli2021Towards_WRN34              wrn_34_10        trades      raw      65.73 30.35
Chen2021LTD_WRN34_10                    wrn_34_10        trades      raw      64.07 30.59
Pang2022Robustness_WRN28_10             wrn_28_10        deepmind    short100 63.66 31.08
Pang2022Robustness_WRN70_16             wrn_70_16        deepmind    short100 65.56 33.05
Jia2022LAS-AT_34_10                     wrn_34_10        trades      raw      64.89 30.77
Jia2022LAS-AT_34_20                     wrn_34_20        wide        raw      67.31 31.91
Addepalli2022Efficient_RN18             cifar_resnet_18  resnet      raw      65.45 27.67
Addepalli2022Efficient_WRN_34_10        wrn_34_10        wide        raw      68.75 31.85
Cui2020Learnable_34_10_LBGAT9_eps_8_255 wrn_34_10        wide        raw      62.99 31.20
Wang2023Better_WRN-28-10                wrn_28_10        deepmind    short100 72.58 38.83 38.77
Wang2023Better_WRN-70-16                wrn_70_16        deepmind    short100 75.22 42.67 42.66
Cui2023Decoupled_WRN-28-10              wrn_28_10        deepmind    short100 73.85 39.18
Cui2023Decoupled_WRN-34-10              wrn_34_10        wide        raw      65.76 31.91
Cui2023Decoupled_WRN-34-10_autoaug      wrn_34_10        wide        raw      65.93 32.52
Chen2024Data_WRN_34_10                  wrn_34_10        wide        raw      64.32 31.13
[imagenet linf 4/255]
Engstrom2019Robustness                  resnet_50        torchvision imagenet 62.56 29.22
Salman2020Do_R18                        resnet_18        torchvision imagenet 52.92 25.32
Salman2020Do_R50                        resnet_50        torchvision imagenet 64.02 34.96
Salman2020Do_50_2                       wide_resnet_50_2 torchvision imagenet 68.46 38.14
Wong2020Fast                            resnet_50        torchvision imagenet 55.62 26.24 size=288
"""

# The entries of RobustBench's CIFAR tables that are not here, and why.
LEFT_OUT = """
[cifar10 linf]
Chen2020Adversarial               the mean of three ResNet-50's probabilities
Sehwag2021Proxy_ResNest152        ResNeSt-152
Dai2021Parameterizing             an activation with learned parameters (PSSiLU)
Kang2021Stable                    a neural ODE behind a Wide-ResNet
Debenedetti2022Light_XCiT-S12     XCiT, a vision transformer
Debenedetti2022Light_XCiT-M12     XCiT, a vision transformer
Debenedetti2022Light_XCiT-L12     XCiT, a vision transformer
Bai2023Improving_edm              a mixture of a Wide-ResNet and a BiT ResNet
Peng2023Robust                    RaWideResNet, which has squeeze-and-excitation blocks
Bai2024MixedNUTS                  a mixture of two networks
Amini2024MeanSparse_Ra_WRN_70_16  MeanSparse layers between the layers of a Wide-ResNet
Amini2024MeanSparse_S-WRN-94-16   MeanSparse layers between the layers of a Wide-ResNet
[cifar10 l2]
Amini2024MeanSparse_S-WRN-70-16   MeanSparse layers between the layers of a Wide-ResNet
[cifar100 linf]
Debenedetti2022Light_XCiT-S12     XCiT, a vision transformer
Debenedetti2022Light_XCiT-M12     XCiT, a vision transformer
Debenedetti2022Light_XCiT-L12     XCiT, a vision transformer
Bai2023Improving_edm              a mixture of a Wide-ResNet and a BiT ResNet
Bai2023Improving_trades           a mixture of a Wide-ResNet and a BiT ResNet
Bai2024MixedNUTS                  a mixture of two networks
Amini2024MeanSparse_S-WRN-70-16   MeanSparse layers between the layers of a Wide-ResNet
"""

# Of an id up to its first "_": the paper's address and, indented, its title.
PAPERS = """
Addepalli2021Towards https://arxiv.org/abs/2210.09852
    Scaling Adversarial Training to Large Perturbation Bounds
Addepalli2022Efficient https://arxiv.org/abs/2210.15318
    Efficient and Effective Augmentation Strategy for Adversarial Training
Andriushchenko2020Understanding https://arxiv.org/abs/2007.02617
    Understanding and Improving Fast Adversarial Training
Augustin2020Adversarial https://arxiv.org/abs/2003.09461
    Adversarial Robustness on In- and Out-Distribution Improves Explainability
Bartoldson2024Adversarial https://arxiv.org/abs/2404.09349
    Adversarial Robustness Limits via Scaling-Law and Human-Alignment Studies
Carmon2019Unlabeled https://arxiv.org/abs/1905.13736
    Unlabeled Data Improves Adversarial Robustness
Chen2020Efficient https://arxiv.org/abs/2010.01278
    Efficient Robust Training via Backward Smoothing
Chen2021LTD https://arxiv.org/abs/2111.02331
    LTD: Low Temperature Distillation for Robust Adversarial Training
Chen2024Data https://doi.org/10.1016/j.patcog.2024.110394
    Data filtering for efficient adversarial training
Cui2020Learnable https://arxiv.org/abs/2011.11164
    Learnable Boundary Guided Adversarial Training
Cui2023Decoupled https://arxiv.org/abs/2305.13948
    Decoupled Kullback-Leibler Divergence Loss
Ding2020MMA https://openreview.net/forum?id=HkeryxBtPB
    MMA Training: Direct Input Space Margin Maximization through Adversarial Training
Engstrom2019Robustness https://github.com/MadryLab/robustness
    Robustness library
Gowal2020Uncovering https://arxiv.org/abs/2010.03593
    Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial Examples
Gowal2021Improving https://arxiv.org/abs/2110.09468
    Improving Robustness using Generated Data
Hendrycks2019Using https://arxiv.org/abs/1901.09960
    Using Pre-Training Can Improve Model Robustness and Uncertainty
Huang2020Self https://arxiv.org/abs/2002.10319
    Self-Adaptive Training: beyond Empirical Risk Minimization
Huang2021Exploring https://arxiv.org/abs/2110.03825
    Exploring Architectural Ingredients of Adversarially Robust Deep Neural Networks
Huang2022Revisiting https://arxiv.org/abs/2212.11005
    Revisiting Residual Networks for Adversarial Robustness: An Architectural Perspective
Jia2022LAS-AT https://arxiv.org/abs/2203.06616
    LAS-AT: Adversarial Training with Learnable Attack Strategy
Pang2020Boosting https://arxiv.org/abs/2002.08619
    Boosting Adversarial Training with Hypersphere Embedding
Pang2022Robustness https://arxiv.org/pdf/2202.10103.pdf
    Robustness and Accuracy Could Be Reconcilable by (Proper) Definition
Rade2021Helper https://openreview.net/forum?id=BuD2LmNaU3a
    Helper-based Adversarial Training: Reducing Excessive Margin to Achieve a Better Accuracy
    vs. Robustness Trade-off
Rebuffi2021Fixing https://arxiv.org/abs/2103.01946
    Fixing Data Augmentation to Improve Adversarial Robustness
Rice2020Overfitting https://arxiv.org/abs/2002.11569
    Overfitting in adversarially robust deep learning
Rony2019Decoupling https://arxiv.org/abs/1811.09600
    Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and
    Defenses
Salman2020Do https://arxiv.org/abs/2007.08489
    Do Adversarially Robust ImageNet Models Transfer Better?
Sehwag2020Hydra https://arxiv.org/abs/2002.10509
    HYDRA: Pruning Adversarially Robust Neural Networks
Sehwag2021Proxy https://arxiv.org/abs/2104.09425
    Robust Learning Meets Generative Models: Can Proxy Distributions Improve Adversarial
    Robustness?
Sitawarin2020Improving https://arxiv.org/abs/2003.09347
    Improving Adversarial Robustness Through Progressive Hardening
Sridhar2021Robust https://arxiv.org/abs/2106.02078
    Improving Neural Network Robustness via Persistency of Excitation
Standard https://github.com/RobustBench/robustbench/
    Standardly trained model
Wang2020Improving https://openreview.net/forum?id=rklOg6EFwS
    Improving Adversarial Robustness Requires Revisiting Misclassified Examples
Wang2023Better https://arxiv.org/abs/2302.04638
    Better Diffusion Models Further Improve Adversarial Training
Wong2020Fast https://arxiv.org/abs/2001.03994
    Fast is better than free: Revisiting adversarial training
Wu2020Adversarial https://arxiv.org/abs/2004.05884
    Adversarial Weight Perturbation Helps Robust Generalization
Xu2023Exploring https://arxiv.org/abs/2302.03015
    Exploring and Exploiting Decision Boundary Dynamics for Adversarial Robustness
Zhang2019Theoretically https://arxiv.org/abs/1901.08573
    Theoretically Principled Trade-off between Robustness and Accuracy
Zhang2019You https://arxiv.org/abs/1905.00877
    You Only Propagate Once: Accelerating Adversarial Training via Maximal Principle
Zhang2020Attacks https://arxiv.org/abs/2002.11242
    Attacks Which Do Not Kill Training Make Adversarial Learning Stronger
Zhang2020Geometry https://arxiv.org/abs/2010.01736
    Geometry-aware Instance-reweighted Adversarial Training
"""

# Of each network, kind and image size: parameters in millions, GiB of memory and seconds of one
# core's time for one input gradient of 128 images. Measured by scripts/teacher_costs.py.
COSTS = """
cifar_resnet_18 resnet 32 11.2 1.1 4
cifar_resnet_50 resnet 32 23.5 2.7 11
preact_resnet_18 dm_preact 32 12.5 1.3 5
preact_resnet_18 preact 32 11.2 1.0 3
preact_resnet_18 preact_wong 32 11.2 1.1 3
resnet_18 torchvision 224 11.7 3.7 14
resnet_50 torchvision 224 25.6 7.9 40
resnet_50 torchvision 288 25.6 11.0 53
wide_resnet_50_2 torchvision 224 68.9 10.1 61
wrn_106_16 deepmind 32 415.5 11.3 267
wrn_28_10 deepmind 32 36.5 2.4 22
wrn_28_10 trades 32 36.5 2.4 24
wrn_28_10 wide 32 36.5 2.4 24
wrn_28_4 mma 32 5.8 1.3 3
wrn_34_10 deepmind 32 46.2 2.9 24
wrn_34_10 trades 32 46.2 2.9 21
wrn_34_10 wide 32 46.2 2.9 21
wrn_34_15 trades 32 103.8 3.5 70
wrn_34_20 deepmind 32 184.5 4.0 107
wrn_34_20 hypersphere 32 184.5 3.8 108
wrn_34_20 trades 32 184.5 3.6 102
wrn_34_20 wide 32 184.5 3.6 102
wrn_70_16 deepmind 32 266.8 6.9 145
wrn_70_16 wide 32 266.8 6.9 172
wrn_82_8 deepmind 32 79.1 4.4 45
wrn_94_16 deepmind 32 365.9 10.6 204
wrn_by_group wrn_34_r 32 68.1 4.3 66
wrn_by_group wrn_a4 32 147.3 9.9 144
"""

# Of the weights, as RobustBench's LICENSE has it: MIT where it names no other.
LICENSES = {
    "Ding2020MMA": "CC-BY-NC-SA-4.0",
    "Gowal2020Uncovering": "Apache-2.0",
    "Gowal2021Improving": "Apache-2.0",
    "Hendrycks2019Using@cifar10": "Apache-2.0",
    "Pang2020Boosting": "Apache-2.0",
    "Rebuffi2021Fixing": "Apache-2.0",
    "Rony2019Decoupling": "BSD-3-Clause",
}
