"""Random pipelines of published classes, small enough to run in a second; nothing in them is replaced."""

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


def clip_tokenizer():
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_encoder(kind, width=32):
    config = CLIPTextConfig(
        vocab_size=190,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        hidden_act="gelu",
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
    )
    return kind(config).eval()


def t5():
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in LETTERS)]
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return T5Tokenizer(vocab=words, extra_ids=0), T5EncoderModel(config).eval()


def gemma():
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *LETTERS]
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    vocabulary = {word: place for place, word in enumerate(words)}
    return GemmaTokenizer(vocab=vocabulary, merges=[]), Gemma2Model(config).eval()


def autoencoder(channels=4):
    return AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        shift_factor=0.06,
        scaling_factor=0.13,
    )


def sdxl(scheduler=None):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(CLIPTextModel),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler or EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def playground():
    return sdxl(EDMDPMSolverMultistepScheduler())


def sd3():
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    tokenizer, encoder = t5()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_3=encoder,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=tokenizer,
    )


def pixart():
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=32,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )
    tokenizer, encoder = t5()
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def sana():
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=32,
        sample_size=32,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    tokenizer, encoder = gemma()
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


FAMILIES = {"sdxl": sdxl, "playground": playground, "sd3": sd3, "pixart": pixart, "sana": sana}


def save_tiny(family, folder):
    """Save a random pipeline of a family."""
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    return folder
