{{/* Labels of every object. What selects pods is the first alone: it can never change. */}}
{{- define "balancer.labels" -}}
app.kubernetes.io/name: balancer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "balancer.scraped" -}}
{{- if or .Values.prometheus.serviceMonitor.enabled .Values.prometheus.rule.enabled }}yes{{ end }}
{{- end }}

{{/* A probe's request: of the loopback by its address, of the node's address by leaving it to the kubelet. */}}
{{- define "balancer.probe" -}}
httpGet:
  {{- if not (include "balancer.scraped" .root) }}
  host: 127.0.0.1
  {{- end }}
  port: {{ .root.Values.port }}
  path: {{ .path }}
{{- end }}
