import torch,time, visft_nb.robust.ensemble as E
torch.manual_seed(0)
n,d=200,784
x=(torch.rand(n,d)-.5).clamp(0,1)*(torch.rand(n,d)<.3); w=torch.randn(n,d)*torch.rand(n,1); f=-torch.rand(n)*2
import pyautoattack.fab_projections as P
for norm,ref in (('linf',P.projection_linf),('l2',P.projection_l2)):
    b=(w*x).sum(1)-f
    t=time.process_time(); 
    for _ in range(5): o=E.nearest_on_plane(x,w,f,norm)
    t1=time.process_time()-t; t=time.process_time()
    for _ in range(5): r=ref(x,w,b)
    t2=time.process_time()-t
    print(norm,(o-r).abs().max().item(),t1/5,t2/5)
cnt=0
orig=torch.minimum
def cm(*a):
    global cnt; cnt+=1; return orig(*a)
torch.minimum=cm
E.nearest_on_plane(x,w,f,'linf'); print('iters',cnt); cnt=0
E.nearest_on_plane(x,w,f,'l2'); print('iters',cnt)
