from tokenizers import *
import json,time
from tokenizers import models,trainers,pre_tokenizers,normalizers
t=Tokenizer(models.BPE()); t.pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)
tr=trainers.BpeTrainer(vocab_size=5000,special_tokens=['<|endoftext|>'],initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),show_progress=False)
a=time.time(); t.train(['corpus.txt','zh.txt'],tr); print('hf',time.time()-a)
m=json.loads(t.to_str())['model']; o=json.load(open('out_gpt2/tokenizer.json'))['model']
print(m['vocab']==o['vocab'], [tuple(x) for x in m['merges']]==[tuple(x.split(' ')) for x in o['merges']], len(m['vocab']),len(o['vocab']),len(m['merges']),len(o['merges']))
t=Tokenizer(models.BPE(end_of_word_suffix='</w>'))
c=Tokenizer.from_file('out_clip/tokenizer.json'); t.normalizer=c.normalizer; t.pre_tokenizer=c.pre_tokenizer
tr=trainers.BpeTrainer(vocab_size=5000,special_tokens=sorted(pre_tokenizers.ByteLevel.alphabet())+[x+'</w>' for x in sorted(pre_tokenizers.ByteLevel.alphabet())],show_progress=False,end_of_word_suffix='</w>')
t.train(['corpus.txt','zh.txt'],tr); m=json.loads(t.to_str())['model']; o=json.loads(c.to_str())['model']
a=[tuple(x) for x in m['merges']]; b=[tuple(x) for x in o['merges']]
print('clip',len(a),len(b),[i for i in range(min(len(a),len(b))) if a[i]!=b[i]][:3])
