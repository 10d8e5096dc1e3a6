"""Chat templates as their models ship them, without what tools and several turns add: how each writes an answer."""

_TURNS = "{% for m in messages %}"
_ALTERNATE = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
_IM, _IM_END = "<|im_start|>{{ m.role }}\n", "<|im_end|>\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}"
_QWEN3 = (
    _TURNS + _IM + "{% set parts = m.content.split('</think>') %}{% if m.role == 'assistant' %}<think>\n"
    "{{ parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 }}\n</think>\n\n{{ parts[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}" + _IM_END + _ASK
)  # fmt: skip

TEMPLATES = {
    "Mistral-7B-Instruct-v0.2": "{{ bos_token }}" + _TURNS + _ALTERNATE
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "Llama-2-chat": "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% else %}{% set turns = messages %}"
    "{% set first = '' %}{% endif %}{% for m in turns %}{% set content = (first if loop.first else '') + m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Vicuna v1.5": "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. " + _TURNS
    + "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}" + _ASK + "{{ 'ASSISTANT:' }}{% endif %}",
    "Phi-3.5-mini": _TURNS + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    + _ASK + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "Gemma-2": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + _TURNS + _ALTERNATE + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}" + _ASK + "{{ '<start_of_turn>model\n' }}{% endif %}",
    "Qwen2.5": "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    + _TURNS + _IM + "{{ m.content }}" + _IM_END + _ASK + "<|im_start|>assistant\n{% endif %}",
    "Qwen3": _QWEN3 + "<|im_start|>assistant\n{% endif %}",
    "Qwen3, not thinking": _QWEN3 + "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
    "Qwen3-Thinking": _QWEN3 + "<|im_start|>assistant\n<think>\n{% endif %}",
    "QwQ": _TURNS + _IM + "{{ m.content.split('</think>')[-1].lstrip('\n') }}" + _IM_END + _ASK
    + "<|im_start|>assistant\n<think>\n{% endif %}",
}  # fmt: skip
AROUND = {  # opening and closing, read off the templates' texts
    "Mistral-7B-Instruct-v0.2": (" ", "</s>"),
    "Llama-2-chat": (" ", " </s>"),
    "Vicuna v1.5": (" ", "</s>"),
    "Phi-3.5-mini": ("", "<|end|>\n</s>"),
    "Gemma-2": ("", "<end_of_turn>\n"),
    "Qwen2.5": ("", "<|im_end|>\n"),
    "Qwen3": ("<think>\n\n</think>\n\n", "<|im_end|>\n"),
    "Qwen3, not thinking": ("", "<|im_end|>\n"),
    "Qwen3-Thinking": ("\n</think>\n\n", "<|im_end|>\n"),
    "QwQ": ("\n</think>\n\n", "<|im_end|>\n"),
}
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|end|>",),
)
